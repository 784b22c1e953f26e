//! Which file is where, relative to the data directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use shoal_proto::digest::Digest;

/// Held blobs.
pub(crate) const BLOBS: &str = "blobs";
/// Blobs on their way.
pub(crate) const PARTIAL: &str = "partial";
/// Everything else.
pub(crate) const DATABASE: &str = "shoal.redb";
/// What the name of a database that was moved aside begins with; the Unix time follows.
pub(crate) const DAMAGED: &str = "shoal.redb.damaged-";
/// Written now and then, to learn whether the disk still takes anything.
pub(crate) const PROBE: &str = "probe";
/// One process at a time.
pub(crate) const LOCK: &str = "lock";

/// The folder of a held blob's file.
pub(crate) fn blob_folder(digest: &Digest) -> PathBuf {
    Path::new(BLOBS).join(digest.algorithm().as_str()).join(&digest.hex()[..2])
}

/// A held blob's file.
pub(crate) fn blob(digest: &Digest) -> PathBuf {
    blob_folder(digest).join(digest.hex())
}

/// A partial blob's file.
pub(crate) fn partial(digest: &Digest) -> PathBuf {
    Path::new(PARTIAL).join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
}

/// The digest that a held blob's file is named for.
pub(crate) fn digest_of_blob(algorithm: &OsStr, folder: &OsStr, name: &OsStr) -> Option<Digest> {
    let name = name.to_str()?;
    let digest: Digest = format!("{}:{name}", algorithm.to_str()?).parse().ok()?;
    (folder == &name[..2]).then_some(digest)
}

/// The digest that a partial blob's file is named for.
pub(crate) fn digest_of_partial(name: &OsStr) -> Option<Digest> {
    let (algorithm, hex) = name.to_str()?.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout is read by later versions, and by people: changing it needs a migration.
    #[test]
    fn the_layout_on_disk() {
        let digest = Digest::sha256_of(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(blob(&digest), Path::new("blobs/sha256/e3").join(hex));
        assert_eq!(partial(&digest), Path::new("partial").join(format!("sha256-{hex}")));
        assert_eq!(digest_of_blob("sha256".as_ref(), "e3".as_ref(), hex.as_ref()), Some(digest));
        assert_eq!(digest_of_blob("sha256".as_ref(), "e4".as_ref(), hex.as_ref()), None);
        assert_eq!(digest_of_partial(format!("sha256-{hex}").as_ref()), Some(digest));
        for name in ["", "x", "sha256-", "sha256-e3", "md5-e3"] {
            assert_eq!(digest_of_partial(name.as_ref()), None);
        }
    }
}
