//! Bytes on their way to a socket: small frames copied one behind the other, large ones handed over.
//!
//! ```text
//! chunks: [ Bytes | Bytes | ... ]  then  tail: [ small frames, copied ]
//!           ^ head: bytes of the front that are written already
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use bytes::Bytes;

/// Frames of at least this many bytes are handed over, smaller ones are copied.
pub(super) const LARGE_BYTES: usize = 16 * 1024;
/// An empty buffer of more capacity than this is not kept.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of empty buffers that wait for somebody who has something to write.
const POOL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Empty buffers that idle sockets gave back.
#[derive(Debug, Default)]
pub(super) struct Pool {
    spare: Vec<Vec<u8>>,
    /// What they could hold.
    bytes: usize,
}

impl Pool {
    /// An empty buffer, with room if there is one to be had.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let buffer = self.spare.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes > 0 && bytes <= KEPT_BYTES_MAX && self.bytes + bytes <= POOL_BYTES_MAX {
            buffer.clear();
            self.bytes += bytes;
            self.spare.push(buffer);
        }
    }

    /// Drops what nobody asked for.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Debug, Default)]
pub struct Out {
    chunks: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of the first chunk, or of the tail when there is none, that are taken.
    head: usize,
    /// Bytes not taken yet.
    len: usize,
    /// Bytes ever taken.
    taken: u64,
}

impl Out {
    /// Takes a buffer from the pool when this one has none.
    #[inline]
    pub(super) fn equip(&mut self, pool: &mut Pool) {
        if self.tail.capacity() == 0 {
            self.tail = pool.take();
        }
    }

    /// Gives the buffer back; only while nothing is in it.
    #[inline]
    pub(super) fn retire(&mut self, pool: &mut Pool) {
        if self.len == 0 {
            self.head = 0;
            pool.give(mem::take(&mut self.tail));
        }
    }

    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends what `write` writes.
    #[inline]
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    /// Appends a large frame without copying it.
    pub fn hand_over(&mut self, bytes: Bytes) {
        if bytes.len() < LARGE_BYTES {
            return self.push(&bytes);
        }
        self.seal();
        self.len += bytes.len();
        self.chunks.push_back(bytes);
    }

    /// Drops what is not written yet.
    pub(super) fn discard(&mut self) {
        self.chunks.clear();
        self.tail.clear();
        (self.head, self.len) = (0, 0);
    }

    /// Bytes not written yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position of the next byte that is pushed, counted from the first byte ever.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.taken + self.len as u64
    }

    /// Bytes ever written.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The bytes to write, when they are in one piece.
    #[inline]
    #[must_use]
    pub fn single(&self) -> Option<&[u8]> {
        self.chunks.is_empty().then(|| &self.tail[self.head..])
    }

    /// The first pieces to write, of `most` bytes at most.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; 16], most: usize) -> usize {
        let (mut count, mut room) = (0, most);
        let pieces =
            self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]).filter(|piece| !piece.is_empty());
        for (index, piece) in pieces.take(slices.len()).enumerate() {
            let piece = if index == 0 { &piece[self.head..] } else { piece };
            slices[index] = IoSlice::new(&piece[..piece.len().min(room)]);
            (count, room) = (index + 1, room.saturating_sub(piece.len()));
            if room == 0 {
                break;
            }
        }
        count
    }

    /// `count` bytes were written.
    pub fn advance(&mut self, mut count: usize) {
        self.len -= count;
        self.taken += count as u64;
        while let Some(front) = self.chunks.front() {
            let left = front.len() - self.head;
            if count < left {
                self.head += count;
                return;
            }
            count -= left;
            self.head = 0;
            self.chunks.pop_front();
        }
        self.head += count;
        if self.len == 0 {
            self.head = 0;
            self.tail.clear();
        } else if self.head > KEPT_BYTES_MAX && self.head * 2 > self.tail.len() {
            // A socket that is never quite done would keep all that it ever wrote.
            self.tail.drain(..mem::take(&mut self.head));
        }
    }

    /// Gives back what is larger than ordinary traffic needs; it would only be made again under load,
    /// page by page.
    pub(super) fn shrink(&mut self) {
        if self.len == 0 && self.tail.capacity() > KEPT_BYTES_MAX {
            self.tail = Vec::new();
        }
    }

    /// Forgets everything; what was pushed and not written is lost.
    pub fn clear(&mut self) {
        *self = Self { taken: self.taken + self.len as u64, ..Self::default() };
    }

    /// Turns the tail into a chunk, so that something can stand behind it.
    fn seal(&mut self) {
        if self.tail.len() > self.head || !self.chunks.is_empty() && !self.tail.is_empty() {
            self.chunks.push_back(Bytes::from(mem::take(&mut self.tail)));
        } else if self.chunks.is_empty() {
            self.head = 0;
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything in `out`, taken in steps of `step` bytes.
    fn drained(out: &mut Out, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = out.slices(&mut slices, usize::MAX);
            // Only what is taken is copied: single steps over hundreds of kilobytes are many.
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).take(step).collect();
            if let Some(single) = out.single() {
                assert_eq!(single[..bytes.len()], bytes);
            }
            all.extend_from_slice(&bytes);
            out.advance(bytes.len());
        }
        all
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        for step in [7, 4096, LARGE_BYTES, usize::MAX] {
            let (mut out, mut expected) = (Out::default(), Vec::new());
            for round in 0..40_usize {
                let byte = round as u8;
                if round % 3 == 0 {
                    let large = vec![byte; LARGE_BYTES + round];
                    expected.extend_from_slice(&large);
                    out.hand_over(Bytes::from(large));
                } else {
                    out.push(&[byte; 5]);
                    expected.extend_from_slice(&[byte; 5]);
                }
                if round % 5 == 4 && step == 7 {
                    out.advance(3);
                    expected.drain(..3);
                }
            }
            assert_eq!(out.len(), expected.len());
            assert_eq!(drained(&mut out, step), expected, "step {step}");
            assert_eq!(out.taken(), out.end());
        }
    }

    #[test]
    fn what_is_written_is_not_kept() {
        let mut out = Out::default();
        out.push(&[0; 1000]);
        for round in 0..10_000_u32 {
            out.push(&[round as u8; 1000]);
            assert_eq!(out.single().map(|bytes| bytes[0]), Some(round.saturating_sub(1) as u8));
            out.advance(1000);
        }
        assert!(out.tail.len() <= 2 * KEPT_BYTES_MAX, "{} bytes for 1000", out.tail.len());
    }

    #[test]
    fn buffers_of_the_idle_go_to_the_busy() {
        let mut pool = Pool::default();
        let mut first = Out::default();
        first.push(b"abc");
        first.retire(&mut pool);
        assert!(pool.spare.is_empty(), "a buffer with bytes in it stays");
        first.advance(3);
        first.retire(&mut pool);
        assert_eq!(pool.spare.len(), 1);
        let mut second = Out::default();
        second.equip(&mut pool);
        assert!(pool.spare.is_empty() && second.tail.capacity() >= 3);
    }
}
