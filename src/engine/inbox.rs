//! What a socket received and nobody has used yet: a frame that is still incomplete, or frames that
//! wait because their sender may not go on. A socket with nothing unfinished owns no buffer.

use bytes::{Buf, Bytes, BytesMut};

use super::out::LARGE_BYTES;

/// A large frame's buffer starts with this: a length is only a claim. Who has sent so much will send the
/// rest, which gets its place at once: the frame is moved a single time, while that is little.
const FIRST_BYTES: usize = 1024 * 1024;
/// What one read may bring, so that others have their turn.
const FILL_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    buf: BytesMut,
    /// Zeros at its end, where more is to be received.
    room: usize,
    /// How many bytes the scanner needs before it can say anything new; 0: it wants to look now.
    need: usize,
    /// A large frame that is complete but may not be sent yet; it stands before `buf`.
    pub(super) whole: Option<Bytes>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.received() == 0 && self.whole.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.received() + self.whole.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[..self.received()]
    }

    fn received(&self) -> usize {
        self.buf.len() - self.room
    }

    /// What is still to come of the frame at the front, as far as is known.
    pub(super) fn missing(&self) -> usize {
        self.need.saturating_sub(self.received())
    }

    /// The scanner can say something new.
    pub(super) fn is_ripe(&self) -> bool {
        self.whole.is_some() || self.received() > 0 && self.received() >= self.need
    }

    /// Keeps `bytes`, behind what is kept already.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.buf.truncate(self.received());
        self.room = 0;
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
        self.drop_empty();
    }

    /// Hands over the first `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Bytes {
        self.need = 0;
        let bytes = self.buf.split_to(count).freeze();
        self.drop_empty();
        bytes
    }

    fn drop_empty(&mut self) {
        if self.received() == 0 {
            (self.buf, self.room) = (BytesMut::new(), 0);
        }
    }

    /// Where the rest of a large frame is to be received, and nothing behind it; None when there is
    /// little to come: read that elsewhere and [`keep`](Self::keep) it.
    pub(super) fn direct(&mut self) -> Option<&mut [u8]> {
        let (missing, received) = (self.missing(), self.received());
        if self.room == 0 {
            if missing < LARGE_BYTES {
                return None;
            }
            if self.buf.capacity() == received {
                let trusted = if received < FIRST_BYTES { FIRST_BYTES - received } else { missing };
                self.buf.reserve(trusted.min(missing));
            }
            // No small rest: it would be read with what follows, for which the whole buffer had to move.
            let fill = if missing < FILL_BYTES_MAX + LARGE_BYTES { missing } else { FILL_BYTES_MAX };
            self.room = fill.min(self.buf.capacity() - received);
            self.buf.resize(received + self.room, 0);
        }
        Some(&mut self.buf[received..])
    }

    /// So many bytes were received there.
    pub(super) fn filled(&mut self, count: usize) {
        self.room -= count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_received_in_place_stands_behind_what_was_kept() {
        let mut inbox = Inbox::default();
        inbox.needs(100_000);
        inbox.keep(b"ab");
        assert_eq!(inbox.direct().expect("much is to come").len(), 99_998);
        inbox.direct().expect("the same room")[..3].copy_from_slice(b"cde");
        inbox.filled(3);
        assert_eq!((inbox.bytes(), inbox.len(), inbox.missing()), (&b"abcde"[..], 5, 99_995));
        // Room that was not used is nobody's bytes.
        inbox.keep(b"fg");
        assert_eq!(inbox.bytes(), b"abcdefg");
        let room = inbox.direct().expect("much is to come");
        assert_eq!(room.len(), 99_993);
        room.fill(b'z');
        inbox.filled(99_990);
        assert_eq!(inbox.direct().expect("the rest, however little").len(), 3);
        inbox.filled(3);
        assert!(inbox.is_ripe() && inbox.direct().is_none());
        assert_eq!(inbox.take(100_000).len(), 100_000);
        assert!(inbox.is_empty() && inbox.bytes().is_empty());
    }

    #[test]
    fn a_large_frame_is_moved_once() {
        const FRAME: usize = 40 * FIRST_BYTES;
        let mut inbox = Inbox::default();
        inbox.needs(FRAME);
        inbox.keep(b"a");
        let (mut place, mut moves) = (inbox.bytes().as_ptr(), 0);
        while inbox.missing() > 0 {
            let count = inbox.direct().expect("much is to come").len();
            inbox.filled(count);
            moves += u32::from(inbox.bytes().as_ptr() != place);
            place = inbox.bytes().as_ptr();
            // Until the first of it is there, the rest is a claim.
            assert!(inbox.len() >= FIRST_BYTES || inbox.buf.capacity() <= 2 * FIRST_BYTES);
        }
        assert_eq!((inbox.len(), moves), (FRAME, 1));
    }

    #[test]
    fn the_last_bytes_of_a_large_frame_are_not_left_for_another_read() {
        let mut inbox = Inbox::default();
        inbox.needs(2 * FILL_BYTES_MAX + 14);
        assert_eq!(inbox.direct().expect("much is to come").len(), FILL_BYTES_MAX);
        inbox.filled(FILL_BYTES_MAX);
        assert_eq!(inbox.direct().expect("the rest").len(), FILL_BYTES_MAX + 14);
    }
}
