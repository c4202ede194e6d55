//! CRC16-XMODEM (polynomial 0x1021, start 0), the checksum that numbers Redis Cluster's slots.
//!
//! Eight bytes a step: `TABLES[k][b]` is the checksum of byte `b` followed by `k` zero bytes, and the
//! checksum of a sum is the sum of the checksums, so eight independent look-ups replace a chain.

const POLYNOMIAL: u16 = 0x1021;

static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeros - 1][byte];
            tables[zeros][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// The checksum of `bytes`.
#[inline]
#[must_use]
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let t = &TABLES;
    let mut crc = 0u16;
    let (eights, rest) = bytes.as_chunks::<8>();
    for b in eights {
        let [high, low] = crc.to_be_bytes();
        crc = t[7][(b[0] ^ high) as usize]
            ^ t[6][(b[1] ^ low) as usize]
            ^ t[5][b[2] as usize]
            ^ t[4][b[3] as usize]
            ^ t[3][b[4] as usize]
            ^ t[2][b[5] as usize]
            ^ t[1][b[6] as usize]
            ^ t[0][b[7] as usize];
    }
    for byte in rest {
        crc = (crc << 8) ^ t[0][((crc >> 8) as u8 ^ byte) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_value() {
        assert_eq!(checksum(b"123456789"), 0x31c3);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn eight_at_a_step_is_one_at_a_step() {
        let bytes: Vec<u8> = (0..100u32).map(|i| (i * 167 + 13) as u8).collect();
        for len in 0..bytes.len() {
            let slow = bytes[..len].iter().fold(0u16, |crc, byte| {
                (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL }
                })
            });
            assert_eq!(checksum(&bytes[..len]), slow, "{len} bytes");
        }
    }
}
