//! The arguments of one request, as places in the bytes that were received.

/// Where one argument lies, relative to the first byte of its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// A request's arguments, the command's name first. Borrowed: nothing is copied to look at them.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// `spans` must lie inside `buf`, as the request scanner reports them.
    #[must_use]
    pub fn new(buf: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buf, spans }
    }

    /// The number of arguments, the command's name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How long the request is, up to the end of its last argument.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.spans.last().map_or(0, |span| span.start as usize + span.len as usize + 2)
    }

    /// The bytes of argument `index`; empty when there is no such argument.
    #[must_use]
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.spans.get(index).map_or(&[][..], |span| {
            let start = span.start as usize;
            self.buf.get(start..start + span.len as usize).unwrap_or(&[])
        })
    }

    /// `count` arguments from `index` on as they stand in the request, headers and ends included. Only for
    /// canonical requests, whose headers can be told from their lengths.
    #[must_use]
    #[inline]
    pub fn raw(&self, index: usize, count: usize) -> &'a [u8] {
        let spans = self.spans.get(index..index + count).unwrap_or(&[]);
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return &[] };
        let digits = match first.len {
            0..10 => 1,
            10..100 => 2,
            len => len.ilog10() as usize + 1,
        };
        let start = first.start as usize - digits - 3;
        self.buf.get(start..last.start as usize + last.len as usize + 2).unwrap_or(&[])
    }

    /// Whether argument `index` is `word`, in any case.
    #[must_use]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.at(index).eq_ignore_ascii_case(word.as_bytes())
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let buf = self.buf;
        self.spans.iter().map(move |span| {
            let start = span.start as usize;
            buf.get(start..start + span.len as usize).unwrap_or(&[])
        })
    }
}
