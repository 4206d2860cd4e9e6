//! Unpacks the records of a batch. Contexts and the buffer are kept from batch to batch.

use std::io::Read;

use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::batch::{BatchError, Codec};

/// Most bytes that a batch may unpack to, if nobody asks for less. Brokers take batches of 1 MiB unless
/// they are told otherwise; a bomb is stopped here.
const MOST: usize = 1 << 30;
/// Bytes of memory that are kept although the next batch may be smaller.
const KEPT: usize = 16 << 20;
/// A block of snappy is unpacked to less than so many times its size: three bytes give 64 at most.
const SNAPPY_RATIO: usize = 32;
/// Mark of an LZ4 block that is stored as it is.
const STORED: u32 = 0x8000_0000;
/// Bytes of room for a piece of unknown size.
const PIECE: usize = 64 << 10;
/// Start of the snappy of Java clients: blocks in a frame of their own (xerial's).
const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// Unpacked bytes. Memory once used stays initialised, so that it is not cleared for each block.
pub(super) struct Unpacked {
    memory: Vec<u8>,
    filled: usize,
    most: usize,
}

impl Default for Unpacked {
    fn default() -> Self {
        Self::of_at_most(MOST)
    }
}

impl Unpacked {
    /// No memory is taken for more bytes than these.
    pub(super) fn of_at_most(bytes: usize) -> Self {
        Self { memory: Vec::new(), filled: 0, most: bytes.min(MOST) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Forgets what is in it. Memory that was needed once for a huge batch is given back.
    fn clear(&mut self) {
        if self.memory.len() > KEPT && self.filled < self.memory.len() / 4 {
            self.memory = Vec::new();
        }
        self.filled = 0;
    }

    /// At least so many bytes behind those that are filled.
    fn room(&mut self, bytes: usize) -> Result<&mut [u8], BatchError> {
        let end = self.filled.saturating_add(bytes);
        if end > self.most {
            return Err(BatchError::Large { most: self.most });
        }
        if self.memory.len() < end {
            // Twice as much, so that it is copied seldom, but not beyond the bound.
            let target = end.max(self.memory.len().saturating_mul(2)).min(self.most);
            self.memory.reserve_exact(target - self.memory.len());
            self.memory.resize(target, 0);
        }
        Ok(&mut self.memory[self.filled..])
    }

    /// Room for a piece that may turn out to be shorter; not beyond the bound.
    fn room_up_to(&mut self, bytes: usize) -> Result<&mut [u8], BatchError> {
        match self.most.saturating_sub(self.filled) {
            0 => Err(BatchError::Large { most: self.most }),
            left => self.room(bytes.min(left)),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.room(bytes.len())?[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    fn read(&mut self, mut reader: impl Read) -> Result<(), BatchError> {
        loop {
            let read = reader.read(self.room_up_to(PIECE)?).map_err(packed_error)?;
            if read == 0 {
                return Ok(());
            }
            self.filled += read;
        }
    }
}

/// What unpacks.
#[derive(Default)]
pub(super) struct Unpacker {
    zstd: Option<ZstdDecoder<'static>>,
    snappy: snap::raw::Decoder,
}

impl Unpacker {
    /// Replaces the content of `out`.
    pub(super) fn unpack(
        &mut self,
        codec: Codec,
        packed: &[u8],
        out: &mut Unpacked,
    ) -> Result<(), BatchError> {
        out.clear();
        match codec {
            Codec::None => out.push(packed),
            Codec::Gzip => out.read(flate2::read::MultiGzDecoder::new(packed)),
            Codec::Snappy => self.snappy(packed, out),
            Codec::Lz4 => lz4(packed, out),
            Codec::Zstd => self.zstd(packed, out),
        }
    }

    fn snappy(&mut self, packed: &[u8], out: &mut Unpacked) -> Result<(), BatchError> {
        // Behind the magic: its version and the oldest one that reads it, four bytes each.
        let Some(mut rest) = packed.strip_prefix(XERIAL).and_then(|rest| rest.get(8..)) else {
            return self.snappy_block(packed, out);
        };
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk().ok_or_else(short)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(packed_error)?;
            let (block, after) = after.split_at_checked(length).ok_or_else(short)?;
            self.snappy_block(block, out)?;
            rest = after;
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8], out: &mut Unpacked) -> Result<(), BatchError> {
        let length = snap::raw::decompress_len(block).map_err(packed_error)?;
        if length > block.len().saturating_mul(SNAPPY_RATIO) {
            return Err(BatchError::Packed(String::from("it tells a size that it cannot have")));
        }
        let room = &mut out.room(length)?[..length];
        out.filled += self.snappy.decompress(block, room).map_err(packed_error)?;
        Ok(())
    }

    fn zstd(&mut self, packed: &[u8], out: &mut Unpacked) -> Result<(), BatchError> {
        let decoder = match &mut self.zstd {
            Some(decoder) => {
                decoder.reinit().map_err(packed_error)?;
                decoder
            }
            none => none.insert(ZstdDecoder::new().map_err(packed_error)?),
        };
        let mut input = InBuffer::around(packed);
        loop {
            let mut output = OutBuffer::around(out.room_up_to(PIECE)?);
            let left = decoder.run(&mut input, &mut output).map_err(packed_error)?;
            let written = output.pos();
            out.filled += written;
            match (input.pos() == packed.len(), left) {
                (true, 0) => return Ok(()),
                // There was room for more, and nothing came.
                (true, _) if written == 0 => return Err(short()),
                _ => {}
            }
        }
    }
}

/// LZ4 frames. Those that Kafka's clients write have independent blocks without checksums, which
/// are unpacked here straight to their place; all others go through the library's reader.
fn lz4(packed: &[u8], out: &mut Unpacked) -> Result<(), BatchError> {
    let Some((block_size, mut rest)) = plain_frame(packed) else {
        let mut rest = packed;
        out.read(lz4_flex::frame::FrameDecoder::new(&mut rest))?;
        return end(rest);
    };
    loop {
        let (length, after) = rest.split_first_chunk().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            return end(after);
        }
        let size = usize::try_from(length & !STORED).map_err(packed_error)?;
        let (block, after) = after.split_at_checked(size).ok_or_else(short)?;
        rest = after;
        if length & STORED != 0 {
            out.push(block)?;
            continue;
        }
        let most = out.most;
        let room = out.room_up_to(block_size)?;
        let length = block_size.min(room.len());
        let (room, is_cut) = (&mut room[..length], length < block_size);
        let written = lz4_flex::block::decompress_into(block, room).map_err(|error| match is_cut {
            true => BatchError::Large { most },
            false => packed_error(error),
        });
        out.filled += written?;
    }
}

/// A batch is one frame: another one would be passed over.
fn end(rest: &[u8]) -> Result<(), BatchError> {
    match rest.is_empty() {
        true => Ok(()),
        false => Err(BatchError::Packed(String::from("more than one LZ4 frame"))),
    }
}

/// Size of blocks, and what follows the header, of a frame of independent blocks without
/// checksums and dictionary.
fn plain_frame(packed: &[u8]) -> Option<(usize, &[u8])> {
    let rest = packed.strip_prefix(&0x184D_2204u32.to_le_bytes())?;
    let (flags, sizes) = (*rest.first()?, *rest.get(1)?);
    // Version 1, independent blocks; no checksum of blocks or content, no dictionary.
    if flags & 0b1111_0101 != 0b0110_0000 {
        return None;
    }
    let block_size = match sizes >> 4 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return None,
    };
    let content_size = if flags & 8 != 0 { 8 } else { 0 };
    // The header's own checksum is not looked at: the batch has one.
    Some((block_size, rest.get(3 + content_size..)?))
}

fn short() -> BatchError {
    BatchError::Packed(String::from("it ends too early"))
}

fn packed_error(error: impl std::fmt::Display) -> BatchError {
    BatchError::Packed(error.to_string())
}
