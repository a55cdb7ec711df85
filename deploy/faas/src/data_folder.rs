//! The data folder: one owner at a time, readable by nobody else.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::failure::{Exit, Failure, Outcome};

/// What the platform keeps in its data folder.
const CONTENT: [&str; 8] = ["blobs", "compiled", "lock", "logs", "run", "store.redb", "token", "token.new"];

/// A data folder that this process owns until it ends.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Its lock ends with the process, whatever ends the process.
    _lock: File,
}

/// Returns `$XDG_DATA_HOME/faas` or `~/.local/share/faas` (XDG Base Directory Specification).
pub(crate) fn default_path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("faas"))
}

impl DataFolder {
    /// Creates the folder where it is missing (mode 0700), closes it to others, and locks it.
    ///
    /// # Errors
    /// `Refused` when it is not this user's alone and cannot be made so.
    /// `TryLater` when another process owns it.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let failed = |doing: &str, error: io::Error| {
            let message = format!("data folder {} cannot be {doing}: {error}", path.display());
            Failure::new(Exit::Unreachable, message, "name another with --data DIR")
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("created", e))?;
        let path = path.canonicalize().map_err(|e| failed("found", e))?;
        make_private(&path).map_err(|e| failed("read", e))??;
        let mut options = File::options();
        let lock = options.create(true).append(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(|e| failed("locked", e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                Exit::TryLater,
                format!("data folder {} is in use by another `faas up`", path.display()),
                "stop that one first, or name another folder with --data DIR",
            )),
            Err(error) => Err(failed("locked", error.into())),
        }
    }

    /// Returns the folder's own path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file of the platform in the folder.
    pub(crate) fn file(&self, name: &'static str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns a folder of the platform in the folder, created when missing.
    ///
    /// # Errors
    /// `Refused` when it is not this user's alone.
    pub(crate) fn folder(&self, name: &'static str) -> Outcome<PathBuf> {
        let path = self.path.join(name);
        let checked = match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => check_private(&path),
        };
        checked.map_err(|error| {
            let message = format!("folder {} cannot be created: {error}", path.display());
            Failure::new(Exit::Unreachable, message, "check the disk and the folder's owner")
        })??;
        Ok(path)
    }
}

/// Makes the data folder readable by its owner alone.
///
/// A folder that holds other things as well is somebody's home or the system's, and stays as it is;
/// in one that others could write to, even a familiar name may be theirs.
fn make_private(path: &Path) -> io::Result<Outcome> {
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
            return Ok(Err(Failure::new(Exit::Refused, message, "look at what is in it")));
        }
    }
    check_private(path)
}

/// Refuses what is not a folder of this user alone: what is in it is trusted, machine code included.
fn check_private(path: &Path) -> io::Result<Outcome> {
    let shown = path.display();
    let refused = |message: String, hint: String| Ok(Err(Failure::new(Exit::Refused, message, hint)));
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
        assert_eq!(refused.exit, Exit::TryLater);
        assert!(refused.message.contains("in use"), "{refused}");
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
            assert_eq!(refused.exit, Exit::Refused);
            assert!(refused.hint.contains("chmod 700"), "{refused}");
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
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.message.contains("another user") && refused.hint.contains("--data"), "{refused}");
    }

    #[test]
    fn a_folder_inside_that_is_open_or_a_link_is_refused() {
        let (dir, elsewhere) = (folder(0o700), folder(0o700));
        let data = DataFolder::open(dir.path()).unwrap();
        let compiled = data.folder("compiled").unwrap();
        std::fs::set_permissions(&compiled, Permissions::from_mode(0o750)).unwrap();
        assert!(data.folder("compiled").unwrap_err().message.contains("open to others (mode 750)"));
        for target in [elsewhere.path(), Path::new("nowhere")] {
            let link = dir.path().join("logs");
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(data.folder("logs").unwrap_err().message.contains("not a folder itself"));
            std::fs::remove_file(link).unwrap();
        }
    }
}
