//! `faas new`: writes a function that builds, tests and deploys as it is.

use std::fs;
use std::io;
use std::path::Path;

use faas_model::Name;

use crate::cli::{New, Template};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// What stands in the templates for the function's name.
const PLACEHOLDER: &str = "{{name}}";

/// Files of the Rust template: where they go, and what they hold.
const RUST: &[(&str, &str)] = &[
    (".gitignore", include_str!("../../../../functions/template/rust/gitignore")),
    // Another name there, so that Cargo takes the template for no package of its own.
    ("Cargo.toml", include_str!("../../../../functions/template/rust/Cargo.toml.in")),
    ("README.md", include_str!("../../../../functions/template/rust/README.md")),
    ("faas.toml", include_str!("../../../../functions/template/rust/faas.toml")),
    ("src/http.rs", include_str!("../../../../functions/template/rust/src/http.rs")),
    ("src/lib.rs", include_str!("../../../../functions/template/rust/src/lib.rs")),
];

/// Writes the template into a new folder of the function's name.
pub(crate) fn run(new: &New) -> Outcome {
    let files = match new.template {
        Template::Rust => RUST,
    };
    write(Path::new("."), &new.name, files)?;
    output::note(&format!("next: faas build {0} && faas deploy {0} && faas invoke {0}", new.name));
    output::line(new.name.as_str())
}

fn write(base: &Path, name: &Name, files: &[(&str, &str)]) -> Outcome {
    let root = base.join(name.as_str());
    let failed = |path: &Path, error: io::Error| {
        let message = format!("{} cannot be written: {error}", path.display());
        Failure::new(Exit::Refused, message, "check the folder you are in")
    };
    match fs::create_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists already", root.display());
            return Err(Failure::new(Exit::Refused, message, "choose another name, or remove that folder first"));
        }
        result => result.map_err(|e| failed(&root, e))?,
    }
    for (file, text) in files {
        let path = root.join(file);
        let folder = path.parent().unwrap_or(&root);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text.replace(PLACEHOLDER, name.as_str())))
            .map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use faas_model::manifest::Manifest;

    use super::*;

    #[test]
    fn the_template_has_a_manifest_of_the_new_name_and_no_placeholder_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new("tea-shop").unwrap();
        write(dir.path(), &name, RUST).unwrap();
        let manifest = fs::read_to_string(dir.path().join("tea-shop/faas.toml")).unwrap();
        let manifest = Manifest::parse(&manifest).unwrap();
        assert!(manifest.functions.contains_key(&name));
        for (file, _) in RUST {
            let text = fs::read_to_string(dir.path().join("tea-shop").join(file)).unwrap();
            assert!(!text.contains(PLACEHOLDER), "{file}");
        }
        assert!(RUST.iter().any(|(file, _)| *file == "Cargo.toml"));
    }

    #[test]
    fn every_file_of_the_template_is_written() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/template/rust");
        let count = |dir: &Path| {
            fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_file()).count()
        };
        assert_eq!(RUST.len(), count(&root) + count(&root.join("src")));
    }

    #[test]
    fn an_existing_folder_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let failure = write(dir.path(), &Name::new("taken").unwrap(), RUST).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(fs::read_dir(dir.path().join("taken")).unwrap().count(), 0);
    }
}
