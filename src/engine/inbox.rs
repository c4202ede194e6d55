//! What a socket received and nobody has used yet: a frame that is still incomplete, or frames that
//! wait because their sender may not go on. A socket with nothing unfinished owns no buffer.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::out::LARGE_BYTES;

/// A large frame's buffer starts with this and grows as its bytes arrive: a length is only a claim.
const FIRST_BYTES: usize = 1024 * 1024;
/// Who has sent this much of a frame will send the rest: it gets its place at once, and is not moved
/// again.
const TRUSTED_BYTES: usize = 16 * 1024 * 1024;
/// What one read may bring, so that others have their turn.
const FILL_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    buf: BytesMut,
    /// How many bytes the scanner needs before it can say anything new; 0: it wants to look now.
    need: usize,
    /// A large frame that is complete but may not be sent yet; it stands before `buf`.
    pub(super) whole: Option<Bytes>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.whole.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.buf.len() + self.whole.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// What is still to come of the frame at the front, as far as is known.
    pub(super) fn missing(&self) -> usize {
        self.need.saturating_sub(self.buf.len())
    }

    /// The scanner can say something new.
    pub(super) fn is_ripe(&self) -> bool {
        self.whole.is_some() || !self.buf.is_empty() && self.buf.len() >= self.need
    }

    /// Keeps `bytes`, behind what is kept already.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.need > self.buf.capacity() {
            self.buf.reserve(self.need.min(FIRST_BYTES).max(bytes.len() + self.buf.len()) - self.buf.len());
        }
        self.buf.extend_from_slice(bytes);
    }

    pub(super) fn needs(&mut self, need: usize) {
        self.need = need;
    }

    /// Forgets the first `count` bytes; a buffer with nothing in it is dropped.
    pub(super) fn consume(&mut self, count: usize) {
        self.need = 0;
        self.buf.advance(count);
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }

    /// Hands over the first `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Bytes {
        self.need = 0;
        let bytes = self.buf.split_to(count).freeze();
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
        bytes
    }

    /// Where the rest of a large frame is to be received, and nothing behind it; None when there is
    /// little to come: read that elsewhere and [`keep`](Self::keep) it.
    pub(super) fn direct(&mut self) -> Option<impl BufMut + '_> {
        let missing = self.missing();
        if missing < LARGE_BYTES {
            return None;
        }
        if self.buf.capacity() == self.buf.len() {
            let trusted = if self.buf.len() < TRUSTED_BYTES { self.buf.len().max(FIRST_BYTES) } else { missing };
            self.buf.reserve(missing.min(trusted));
        }
        Some((&mut self.buf).limit(missing.min(FILL_BYTES_MAX)))
    }
}
