//! Frames that the proxy writes itself: requests to servers, replies to clients.

/// The protocol that a connection speaks; it is chosen by `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    #[default]
    Resp2,
    Resp3,
}

/// Appends `args` as a request.
pub fn request<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    header(out, b'*', args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

/// Writes one reply, or the elements of one, in the client's protocol. Aggregates are a header with
/// the number of elements, then the elements.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    proto: Proto,
}

impl<'a> Reply<'a> {
    pub fn new(out: &'a mut Vec<u8>, proto: Proto) -> Self {
        Self { out, proto }
    }

    /// Makes room for what is about to be written.
    pub fn reserve(&mut self, bytes: usize) -> &mut Self {
        self.out.reserve(bytes);
        self
    }

    /// `+OK`. The text must be one line.
    pub fn status(&mut self, text: &str) -> &mut Self {
        self.line(b'+', text.as_bytes())
    }

    /// `-ERR ...`: `text` starts with the error's code. Line ends in it become spaces; it may
    /// repeat a client's bytes, which need not be UTF-8.
    pub fn error(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.out.push(b'-');
        self.out.extend(text.as_ref().iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
        self.out.extend_from_slice(b"\r\n");
        self
    }

    pub fn integer(&mut self, value: i64) -> &mut Self {
        self.line(b':', value.to_string().as_bytes())
    }

    pub fn bulk(&mut self, body: impl AsRef<[u8]>) -> &mut Self {
        bulk(self.out, body.as_ref());
        self
    }

    /// A text for people: verbatim in RESP3.
    pub fn verbatim(&mut self, body: impl AsRef<[u8]>) -> &mut Self {
        let body = body.as_ref();
        match self.proto {
            Proto::Resp2 => bulk(self.out, body),
            Proto::Resp3 => {
                header(self.out, b'=', body.len() + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(body);
                self.out.extend_from_slice(b"\r\n");
            }
        }
        self
    }

    pub fn null(&mut self) -> &mut Self {
        self.raw(match self.proto {
            Proto::Resp2 => b"$-1\r\n",
            Proto::Resp3 => b"_\r\n",
        })
    }

    pub fn array(&mut self, len: usize) -> &mut Self {
        header(self.out, b'*', len);
        self
    }

    /// `pairs` keys, each followed by its value.
    pub fn map(&mut self, pairs: usize) -> &mut Self {
        match self.proto {
            Proto::Resp2 => header(self.out, b'*', pairs * 2),
            Proto::Resp3 => header(self.out, b'%', pairs),
        }
        self
    }

    pub fn set(&mut self, len: usize) -> &mut Self {
        header(self.out, if self.proto == Proto::Resp2 { b'*' } else { b'~' }, len);
        self
    }

    /// Out-of-band data: an array in RESP2.
    pub fn push(&mut self, len: usize) -> &mut Self {
        header(self.out, if self.proto == Proto::Resp2 { b'*' } else { b'>' }, len);
        self
    }

    /// Whole frames that are ready.
    pub fn raw(&mut self, frames: &[u8]) -> &mut Self {
        self.out.extend_from_slice(frames);
        self
    }

    fn line(&mut self, mark: u8, text: &[u8]) -> &mut Self {
        self.out.push(mark);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
        self
    }
}

fn bulk(out: &mut Vec<u8>, body: &[u8]) {
    header(out, b'$', body.len());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, mark: u8, mut count: usize) {
    let mut line = [0_u8; 24];
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    loop {
        at -= 1;
        line[at] = b'0' + (count % 10) as u8;
        count /= 10;
        if count == 0 {
            break;
        }
    }
    line[at - 1] = mark;
    out.extend_from_slice(&line[at - 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(proto: Proto, write: impl Fn(&mut Reply<'_>), expected: &str) {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, proto));
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn replies_follow_the_protocol() {
        use Proto::{Resp2, Resp3};
        check(Resp2, |r| _ = r.status("OK"), "+OK\r\n");
        check(Resp2, |r| _ = r.error("ERR a\r\nb"), "-ERR a  b\r\n");
        check(Resp2, |r| _ = r.integer(-3), ":-3\r\n");
        check(Resp2, |r| _ = r.null(), "$-1\r\n");
        check(Resp3, |r| _ = r.null(), "_\r\n");
        check(Resp2, |r| _ = r.map(1).bulk("a").integer(1), "*2\r\n$1\r\na\r\n:1\r\n");
        check(Resp3, |r| _ = r.map(1).bulk("a").integer(1), "%1\r\n$1\r\na\r\n:1\r\n");
        check(Resp3, |r| _ = r.verbatim("hi"), "=6\r\ntxt:hi\r\n");
        check(Resp3, |r| _ = r.push(1).set(0).array(0), ">1\r\n~0\r\n*0\r\n");
    }

    #[test]
    fn requests_are_arrays_of_bulks() {
        let mut out = Vec::new();
        request(&mut out, &[&b"GET"[..], b"0123456789"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$10\r\n0123456789\r\n");
    }
}
