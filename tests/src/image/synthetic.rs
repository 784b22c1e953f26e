//! Images of any size, of bytes that do not compress and are the same in every run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Blob, Dialect, Image, Layer, debian, host_architecture};

/// An image whose layers have the given sizes. `seed` makes different images different.
///
/// Its layers are not archives: it can be pulled and compared, but not unpacked.
///
/// # Errors
/// If its files cannot be written into `directory`.
pub fn image(directory: &Path, seed: u64, layers: &[u64]) -> Result<Image> {
    let layers: Vec<Layer> = layers
        .iter()
        .enumerate()
        .map(|(number, &size)| {
            let blob = blob(directory, seed.wrapping_mul(1000).wrapping_add(number as u64), size)?;
            Ok(Layer { diff_id: blob.digest.clone(), blob })
        })
        .collect::<Result<_>>()?;
    Image::assemble(directory, host_architecture(), &layers, Dialect::Oci)
}

/// The same with layers that unpack, each to one file of the given size.
///
/// # Errors
/// If its files cannot be written into `directory`, or a tool that packs them is missing.
pub fn unpackable(directory: &Path, seed: u64, layers: &[u64]) -> Result<Image> {
    let pack = |(number, &size): (usize, &u64)| {
        let name = format!("unpackable-{seed}-{number}");
        let root = directory.join(&name);
        std::fs::create_dir_all(&root)?;
        blob(&root, seed.wrapping_mul(1000).wrapping_add(number as u64), size)?;
        debian::layer(directory, &name, &root, &["."])
    };
    let layers: Vec<Layer> = layers.iter().enumerate().map(pack).collect::<Result<_>>()?;
    Image::assemble(directory, host_architecture(), &layers, Dialect::Oci)
}

/// A blob of `size` bytes.
///
/// # Errors
/// If its file cannot be written into `directory`.
pub fn blob(directory: &Path, seed: u64, size: u64) -> Result<Blob> {
    let path = directory.join(format!("random-{seed}-{size}"));
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        let mut state = seed | 1 << 63;
        let mut left = size;
        while left > 0 {
            // xorshift64: fast, and nothing here needs more than incompressible.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            let take = left.min(8);
            file.write_all(&bytes[..usize::try_from(take).unwrap_or(8)])?;
            left -= take;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Blob::of(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_size_give_the_same_blob() {
        let directory = tempfile::tempdir().unwrap();
        let first = blob(directory.path(), 1, 100_003).unwrap();
        assert_eq!(first.size, 100_003);
        let again = blob(directory.path(), 1, 100_003).unwrap();
        assert_eq!(first.digest, again.digest);
        assert_ne!(first.digest, blob(directory.path(), 2, 100_003).unwrap().digest);
    }
}
