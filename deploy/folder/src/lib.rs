//! The data folder: one owner at a time, readable by nobody else.
//!
//! **Never knows** what is in it, but for the names that are its owner's own.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// What the platform keeps in its data folder.
const CONTENT: [&str; 8] = ["blobs", "compiled", "lock", "logs", "run", "store.redb", "token", "token.new"];

/// A data folder that this process owns until it ends.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Its lock ends with the process, whatever ends the process.
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// It is not this user's alone, and cannot be made so.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Another process owns it.
    #[error("data folder {0} is in use by another `faas up`")]
    InUse(PathBuf),
    /// The disk fails, or the folder cannot be reached.
    #[error("{0}")]
    Disk(String),
}

/// What a look at a folder gives.
type Looked = Result<(), FolderError>;

impl DataFolder {
    /// Creates the folder where it is missing (mode 0700), closes it to others, and locks it.
    ///
    /// # Errors
    /// `Refused` when it is not this user's alone and cannot be made so; `InUse`; `Disk`.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |doing: &str, error: io::Error| {
            FolderError::Disk(format!("data folder {} cannot be {doing}: {error}", path.display()))
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("created", e))?;
        let path = path.canonicalize().map_err(|e| failed("found", e))?;
        make_private(&path).map_err(|e| failed("read", e))??;
        let mut options = File::options();
        let lock = options.create(true).append(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(|e| failed("locked", e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FolderError::InUse(path)),
            Err(error) => Err(failed("locked", error.into())),
        }
    }

    /// Returns the folder's own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file of the platform in the folder.
    #[must_use]
    pub fn file(&self, name: &'static str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns a folder of the platform in the folder, created when missing.
    ///
    /// # Errors
    /// `Refused` when it is not this user's alone; `Disk`.
    pub fn folder(&self, name: &'static str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(name);
        let checked = match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => check_private(&path),
        };
        checked
            .map_err(|error| FolderError::Disk(format!("folder {} cannot be created: {error}", path.display())))??;
        Ok(path)
    }
}

/// Makes the data folder readable by its owner alone.
///
/// A folder that holds other things as well is somebody's home or the system's, and stays as it is;
/// in one that others could write to, even a familiar name may be theirs.
fn make_private(path: &Path) -> io::Result<Looked> {
    let mode = path.metadata()?.permissions().mode();
    if mode & 0o077 == 0 {
        return check_private(path);
    }
    let ours = || -> io::Result<bool> {
        let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        Ok(names.iter().all(|name| mode & 0o022 == 0 && CONTENT.iter().any(|known| name == known)))
    };
    if is_of_this_user(&path.metadata()?) && ours()? {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        tracing::info!(folder = %path.display(), "the data folder was open to others and has mode 0700 now");
        // Nothing came in between the look and the change.
        if !ours()? {
            let message = format!("data folder {} was changed meanwhile", path.display());
            return Ok(Err(FolderError::Refused { message, hint: "look at what is in it".into() }));
        }
    }
    check_private(path)
}

/// Refuses what is not a folder of this user alone: what is in it is trusted, machine code included.
fn check_private(path: &Path) -> io::Result<Looked> {
    let shown = path.display();
    let refused = |message: String, hint: String| Ok(Err(FolderError::Refused { message, hint }));
    let found = path.symlink_metadata()?;
    if !found.is_dir() {
        return refused(format!("{shown} is not a folder itself"), "put a folder in its place, not a link".into());
    }
    if !is_of_this_user(&found) {
        let message = format!("folder {shown} belongs to another user (uid {})", found.uid());
        return refused(
            message,
            format!("start as that user, or name another folder with --data DIR, or chown {shown}"),
        );
    }
    if found.mode() & 0o077 != 0 {
        let message = format!("folder {shown} is open to others (mode {:o})", found.mode() & 0o777);
        return refused(message, format!("look at what is in it, and run `chmod 700 {shown}`"));
    }
    Ok(Ok(()))
}

fn is_of_this_user(found: &std::fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataFolder::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DataFolder::open(&path).unwrap_err();
        assert!(matches!(&refused, FolderError::InUse(in_use) if in_use.ends_with("a/b")), "{refused}");
        assert!(refused.to_string().contains("in use"), "{refused}");
        drop(first);
        DataFolder::open(&path).unwrap();
    }

    /// Returns a folder of that mode.
    fn folder(mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        dir
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_made_beforehand_is_closed_to_others() {
        for open in [0o755, 0o775, 0o777] {
            let dir = folder(open);
            let data = DataFolder::open(dir.path()).unwrap();
            assert_eq!(mode(dir.path()), 0o700, "{open:o}");
            assert_eq!(mode(&data.folder("blobs").unwrap()), 0o700);
        }
        let used = folder(0o755);
        std::fs::write(used.path().join("store.redb"), "").unwrap();
        DataFolder::open(used.path()).unwrap();
        assert_eq!(mode(used.path()), 0o700);
    }

    #[test]
    fn a_folder_that_others_may_have_written_to_or_that_holds_other_things_is_refused_and_kept() {
        for (open, name) in [(0o777, "token"), (0o775, "compiled"), (0o755, "letters")] {
            let dir = folder(open);
            std::fs::write(dir.path().join(name), "").unwrap();
            let refused = DataFolder::open(dir.path()).unwrap_err();
            let FolderError::Refused { hint, .. } = refused else { panic!("{refused}") };
            assert!(hint.contains("chmod 700"), "{hint}");
            assert_eq!(mode(dir.path()), open);
        }
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let dir = folder(0o700);
        // Only root can give a folder away; everybody else finds root's.
        let foreign = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
            dir.path()
        } else {
            Path::new("/")
        };
        let refused = DataFolder::open(foreign).unwrap_err();
        let FolderError::Refused { message, hint } = refused else { panic!("{refused}") };
        assert!(message.contains("another user") && hint.contains("--data"), "{message}: {hint}");
    }

    #[test]
    fn a_folder_inside_that_is_open_or_a_link_is_refused() {
        let (dir, elsewhere) = (folder(0o700), folder(0o700));
        let data = DataFolder::open(dir.path()).unwrap();
        let compiled = data.folder("compiled").unwrap();
        std::fs::set_permissions(&compiled, Permissions::from_mode(0o750)).unwrap();
        assert!(data.folder("compiled").unwrap_err().to_string().contains("open to others (mode 750)"));
        for target in [elsewhere.path(), Path::new("nowhere")] {
            let link = dir.path().join("logs");
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(data.folder("logs").unwrap_err().to_string().contains("not a folder itself"));
            std::fs::remove_file(link).unwrap();
        }
    }
}
