//! Where the data folder is, and what its errors are on the command line.

use std::path::PathBuf;

use faas_data_folder::FolderError;

use crate::failure::{Exit, Failure};

/// Returns `$XDG_DATA_HOME/faas` or `~/.local/share/faas` (XDG Base Directory Specification).
pub(crate) fn default_path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("faas"))
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        let message = error.to_string();
        match error {
            FolderError::Refused { hint, .. } => Self::new(Exit::Refused, message, hint),
            FolderError::InUse(_) => {
                Self::new(Exit::TryLater, message, "stop that one first, or name another folder with --data DIR")
            }
            FolderError::Disk(_) => {
                Self::new(Exit::Unreachable, message, "check the disk and the owner, or name another with --data DIR")
            }
        }
    }
}
