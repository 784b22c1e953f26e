//! The host whose files are written: below a root, which no symlink leads out of, each file replaced at once.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Component, Path, PathBuf};

use super::mirror::Files;
use super::problem::Problem;

/// No configuration file of a client is larger.
const MAX_FILE: u64 = 1024 * 1024;
/// As many symlinks as Linux follows.
const MAX_LINKS: usize = 40;
/// The mode of a file that is made, and of a folder.
pub(super) const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// A host's files, below where its root is mounted. All paths that it is given are the host's own.
#[derive(Debug, Clone)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(root: &Path) -> Result<Self, Problem> {
        let metadata = fs::metadata(root).map_err(|error| Problem::system(root, "cannot be used", &error))?;
        if !metadata.is_dir() {
            return Err(Problem::file(
                root,
                "is no folder",
                "name the folder where the host's root is mounted",
            ));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Where a path of the host really lies: below the root, its symlinks followed as the host itself would.
    fn place(&self, path: &Path) -> Result<PathBuf, Problem> {
        let mut place: Vec<OsString> = Vec::new();
        let mut rest: VecDeque<OsString> = parts(path).collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                place.pop();
                continue;
            }
            place.push(part);
            let here = self.below(&place);
            let is_link = fs::symlink_metadata(&here).is_ok_and(|metadata| metadata.is_symlink());
            if !is_link {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Problem::file(path, "is behind symlinks that lead in a circle", "mend them"));
            }
            let target =
                fs::read_link(&here).map_err(|error| Problem::system(path, "cannot be read", &error))?;
            place.pop();
            if target.is_absolute() {
                place.clear();
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(part);
            }
        }
        Ok(self.below(&place))
    }

    fn below(&self, place: &[OsString]) -> PathBuf {
        place.iter().fold(self.root.clone(), |path, part| path.join(part))
    }

    /// The host's own path of a place below the root.
    fn own(&self, place: &Path) -> PathBuf {
        Path::new("/").join(place.strip_prefix(&self.root).unwrap_or(place))
    }

    fn metadata(&self, path: &Path) -> Result<Option<(PathBuf, Metadata)>, Problem> {
        let place = self.place(path)?;
        match fs::metadata(&place) {
            Ok(metadata) => Ok(Some((place, metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Problem::system(path, "cannot be read", &error)),
        }
    }

    /// A file's permission bits, if it exists.
    pub(super) fn mode(&self, path: &Path) -> Result<Option<u32>, Problem> {
        Ok(self.metadata(path)?.map(|(_, metadata)| metadata.mode() & 0o7777))
    }

    /// The folders that a file would need and that are not there, the outermost first.
    pub(super) fn missing_folders(&self, path: &Path) -> Result<Vec<PathBuf>, Problem> {
        let place = self.place(path)?;
        let above = place.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        let missing = above.take_while(|folder| !folder.exists());
        let mut missing: Vec<PathBuf> = missing.map(|folder| self.own(folder)).collect();
        missing.reverse();
        Ok(missing)
    }

    /// Replaces a file's text at once, or makes it, and the folders that it needs. A file that is there keeps its
    /// mode and owner, unless another mode is given.
    pub(super) fn write(&self, path: &Path, text: &str, mode: Option<u32>) -> Result<(), Problem> {
        let cannot = |error: io::Error| Problem::system(path, "cannot be written", &error);
        for folder in self.missing_folders(path)? {
            let folder = self.place(&folder)?;
            fs::create_dir(&folder).map_err(cannot)?;
            fs::set_permissions(&folder, Permissions::from_mode(FOLDER_MODE)).map_err(cannot)?;
        }
        let place = self.place(path)?;
        let folder = place.parent().unwrap_or(&self.root);
        let there = self.metadata(path)?.map(|(_, metadata)| metadata);
        // Beside it, so that it can take its name; for the owner alone until it is whole.
        let mut new = tempfile::Builder::new().prefix(".shoal-").tempfile_in(folder).map_err(cannot)?;
        new.write_all(text.as_bytes()).map_err(cannot)?;
        if let Some(there) = &there {
            let made = new.as_file().metadata().map_err(cannot)?;
            if (made.uid(), made.gid()) != (there.uid(), there.gid()) {
                fchown(new.as_file(), Some(there.uid()), Some(there.gid())).map_err(cannot)?;
            }
        }
        let mode = mode.or_else(|| there.map(|there| there.mode() & 0o7777)).unwrap_or(FILE_MODE);
        new.as_file().set_permissions(Permissions::from_mode(mode)).map_err(cannot)?;
        new.as_file().sync_all().map_err(cannot)?;
        new.persist(&place).map_err(|error| cannot(error.error))?;
        sync(folder).map_err(cannot)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Problem> {
        let place = self.place(path)?;
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Problem::system(path, "cannot be removed", &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a folder if it is there and empty.
    pub(super) fn remove_empty(&self, folder: &Path) -> Result<(), Problem> {
        let place = self.place(folder)?;
        match fs::remove_dir(&place) {
            Err(error) if !is_left_alone(&error) => Err(Problem::system(folder, "cannot be removed", &error)),
            _ => Ok(()),
        }
    }
}

impl Files for Host {
    fn read(&self, path: &Path) -> Result<Option<String>, Problem> {
        let Some((place, metadata)) = self.metadata(path)? else { return Ok(None) };
        if metadata.is_dir() {
            return Err(Problem::file(path, "is a folder", "move it away, and run this again"));
        }
        // To open a pipe is to wait for whoever writes to it.
        if !metadata.is_file() {
            return Err(Problem::file(path, "is not a regular file", "move it away, and run this again"));
        }
        let cannot = |error: io::Error| Problem::system(path, "cannot be read", &error);
        let mut bytes = Vec::new();
        File::open(place).map_err(cannot)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Problem::file(path, "is larger than 1 MiB", "see whether it is what it should be"));
        }
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| {
            Problem::file(
                path,
                "is not text in UTF-8",
                "save it as UTF-8, or move it away, and run this again",
            )
        })
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, Problem> {
        let cannot = |error: io::Error| Problem::system(folder, "cannot be read", &error);
        let entries = match fs::read_dir(self.place(folder)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot(error)),
        };
        let names = entries.map(|entry| Ok(folder.join(entry?.file_name())));
        let mut names: Vec<PathBuf> = names.collect::<io::Result<_>>().map_err(cannot)?;
        names.sort();
        Ok(names)
    }

    fn is_folder(&self, path: &Path) -> Result<bool, Problem> {
        Ok(self.metadata(path)?.is_some_and(|(_, metadata)| metadata.is_dir()))
    }
}

/// The names in a path, `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|part| part.as_os_str().to_owned())
}

/// Whether a folder is not there, or somebody else's by now.
fn is_left_alone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
    )
}

/// Has the disk keep a folder's names.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn host() -> (tempfile::TempDir, Host) {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        let host = Host::new(&outer.path().join("root")).unwrap();
        (outer, host)
    }

    #[test]
    fn no_symlink_leads_out_of_the_root() {
        let (outer, host) = host();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(outer.path().join("f"), "outside").unwrap();
        for (link, target) in [
            ("etc/up", "../../../f".to_owned()),
            ("etc/absolute", "/f".to_owned()),
            ("etc/outer", outer.path().join("f").display().to_string()),
            ("etc/chain", "absolute".to_owned()),
        ] {
            symlink(&target, root.join(link)).unwrap();
            let path = Path::new("/").join(link);
            assert_eq!(host.read(&path).unwrap(), None, "{link}");
            host.write(&path, "inside", None).unwrap();
            assert_eq!(host.read(&path).unwrap().as_deref(), Some("inside"), "{link}");
            assert!(root.join(link).is_symlink(), "{link} was replaced");
            host.remove(&path).unwrap();
        }
        assert_eq!(fs::read_to_string(outer.path().join("f")).unwrap(), "outside");
        symlink("/etc/round", root.join("etc/round")).unwrap();
        assert!(host.read(Path::new("/etc/round/f")).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn a_file_keeps_its_mode_and_no_other_file_stays() {
        let (outer, host) = host();
        let path = Path::new("/a/b/f");
        assert_eq!(host.missing_folders(path).unwrap(), [Path::new("/a"), Path::new("/a/b")]);
        host.write(path, "1", None).unwrap();
        assert_eq!(host.mode(path).unwrap(), Some(FILE_MODE));
        let place = outer.path().join("root/a/b/f");
        fs::set_permissions(&place, Permissions::from_mode(0o640)).unwrap();
        host.write(path, "2", None).unwrap();
        assert_eq!(host.mode(path).unwrap(), Some(0o640));
        assert_eq!(host.list(Path::new("/a/b")).unwrap(), [path]);
        host.remove_empty(Path::new("/a/b")).unwrap();
        host.remove(path).unwrap();
        host.remove(path).unwrap();
        for folder in ["/a/b", "/a", "/a"] {
            host.remove_empty(Path::new(folder)).unwrap();
        }
        assert_eq!(fs::read_dir(outer.path().join("root")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let (outer, host) = host();
        let root = outer.path().join("root");
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("bytes"), b"\xff").unwrap();
        fs::write(root.join("long"), vec![b' '; 1024 * 1024 + 1]).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        for (name, said) in [
            ("folder", "folder"),
            ("bytes", "UTF-8"),
            ("long", "1 MiB"),
            ("socket", "regular"),
            ("bytes/x", "file"),
        ] {
            let error = host.read(&Path::new("/").join(name)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/{name} ")) && error.contains(said), "{error}");
        }
        assert!(Host::new(&root.join("bytes")).is_err() && Host::new(&root.join("none")).is_err());
    }
}
