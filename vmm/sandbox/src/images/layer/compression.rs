//! How a layer's archive is compressed, told by its first bytes.
//!
//! Both decoders are written in Rust: they read what an attacker may have made, on the host. What a media type says is
//! not asked; images are made whose layers are not what it says, and other tools take them.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The plain data of `blob`.
pub fn decompress<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Frames::new(blob)),
        _ => Box::new(blob),
    })
}

/// The frames of a zstd file, one after the other (RFC 8878, section 3.1: there may be several, and some to skip).
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    open: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), open: false }
    }

    /// Opens the next frame that has contents; false at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.open {
                self.open = self.next()?;
                if !self.open {
                    break;
                }
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.open = false;
                continue;
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            let decoded = self.decoder.decode_blocks(&mut self.source, one);
            decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn plain(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decompress(blob)?.read_to_end(&mut plain).map(|_| plain)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("memory can be written");
        encoder.finish().expect("memory can be written")
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn what_was_compressed_in_parts_is_read_as_one() {
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for blob in [
            [gzip(b"one "), gzip(b"two")].concat(),
            [zstd(b"one "), skipped.clone(), zstd(b"two")].concat(),
            [skipped, zstd(b"one two")].concat(),
            b"one two".to_vec(),
        ] {
            assert_eq!(plain(&blob).expect("it can be read"), b"one two");
        }
    }

    #[test]
    fn what_is_cut_short_or_broken_is_an_error() {
        let data = vec![b'x'; 100_000];
        for whole in [gzip(&data), zstd(&data)] {
            for broken in [&whole[..whole.len() - 1], &whole[..12], &[&whole[..], b"?!"].concat()] {
                assert!(plain(broken).is_err());
            }
        }
    }
}
