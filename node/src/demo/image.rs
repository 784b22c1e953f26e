//! An image of any size, made up as it is read: its layers are tar archives of one file each, whose bytes nobody can
//! compress and everybody can compute, so that neither memory nor disk holds them.

use bytes::{Bytes, BytesMut};
use shoal_proto::digest::{Algorithm, Digest, Hasher};
use shoal_proto::manifest::OCI_MANIFEST;

/// Layers of every image: as many as clients fetch at a time, and one more.
const LAYERS: u64 = 4;
/// A tar archive is made of these.
const BLOCK: u64 = 512;
/// How much is made at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// A layer: a tar archive of one file.
#[derive(Debug)]
pub(super) struct Layer {
    digest: Digest,
    header: Box<[u8; 512]>,
    seed: blake3::Hasher,
    content: u64,
}

/// An image: manifest, config, layers.
#[derive(Debug)]
pub(super) struct Image {
    manifest: Bytes,
    config: Bytes,
    layers: Vec<Layer>,
}

impl Layer {
    fn new(number: u64, content: u64) -> anyhow::Result<Self> {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("layer-{number}"))?;
        header.set_mode(0o644);
        header.set_size(content);
        header.set_cksum();
        let mut seed = blake3::Hasher::new_derive_key("shoal demo layer");
        seed.update(&number.to_be_bytes());
        let mut layer =
            Self { digest: Digest::sha256_of(b""), header: Box::new(*header.as_bytes()), seed, content };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut offset = 0;
        while offset < layer.size() {
            let piece = layer.piece(offset, layer.size());
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
        layer.digest = hasher.finish();
        Ok(layer)
    }

    /// Its digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes: header, content, padding, and two empty blocks (POSIX.1-1988, "ustar").
    pub(super) fn size(&self) -> u64 {
        BLOCK + self.content.next_multiple_of(BLOCK) + 2 * BLOCK
    }

    /// The bytes from `offset` on, up to `end` or as many as are made at a time.
    pub(super) fn piece(&self, offset: u64, end: u64) -> Bytes {
        let left = end.min(self.size()).saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let mut piece = BytesMut::zeroed(length);
        let (from, to) = (offset, offset + length as u64);
        // Offsets within the piece are smaller than it is.
        let index = |at: u64| usize::try_from(at - from).unwrap_or(length);
        if from < BLOCK {
            let until = to.min(BLOCK);
            let header = usize::try_from(from).unwrap_or(0)..usize::try_from(until).unwrap_or(0);
            piece[..index(until)].copy_from_slice(&self.header[header]);
        }
        let (begin, finish) = (from.max(BLOCK), to.min(BLOCK + self.content));
        if begin < finish {
            let mut output = self.seed.finalize_xof();
            output.set_position(begin - BLOCK);
            output.fill(&mut piece[index(begin)..index(finish)]);
        }
        piece.freeze()
    }
}

impl Image {
    /// Makes up an image of about so many bytes. Reads each layer once, for its digest.
    pub(super) fn new(size: u64) -> anyhow::Result<Self> {
        let layers =
            (0..LAYERS).map(|number| Layer::new(number, size / LAYERS)).collect::<Result<Vec<_>, _>>()?;
        let diff_ids: Vec<Digest> = layers.iter().map(Layer::digest).collect();
        let config = serde_json::json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Bytes::from(serde_json::to_vec(&config)?);
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer.digest,
                    "size": layer.size(),
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::sha256_of(&config),
                "size": config.len(),
            },
            "layers": described,
        });
        Ok(Self { manifest: serde_json::to_vec(&manifest)?.into(), config, layers })
    }

    /// The manifest's bytes.
    pub(super) fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    /// The config's bytes.
    pub(super) fn config(&self) -> &Bytes {
        &self.config
    }

    /// The layers, lowest first.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Everything a node needs of it, in bytes.
    pub(super) fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(Layer::size).sum();
        layers + (self.config.len() + self.manifest.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn whole(layer: &Layer) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < layer.size() {
            bytes.extend_from_slice(&layer.piece(bytes.len() as u64, layer.size()));
        }
        bytes
    }

    #[test]
    fn layers_are_archives_and_the_same_each_time() {
        let (image, again) = (Image::new(4 << 20).unwrap(), Image::new(4 << 20).unwrap());
        assert_eq!(image.manifest(), again.manifest());
        for layer in image.layers() {
            let bytes = whole(layer);
            assert_eq!(Digest::sha256_of(&bytes), layer.digest());
            let mut archive = tar::Archive::new(bytes.as_slice());
            let mut content = Vec::new();
            archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content.len(), 1 << 20);
            // Any part of it is what it is in the whole.
            for (from, to) in [(0, 1), (500, 700), (300_000, 300_001), (layer.size() - 1500, layer.size())] {
                let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                assert_eq!(layer.piece(from, to), bytes[range]);
            }
        }
        assert_ne!(image.layers()[0].digest(), image.layers()[1].digest());
    }
}
