use std::path::Path;

use super::*;

#[test]
fn every_key_is_explained_and_nothing_else_is() {
    let keys = keys();
    assert!(keys.defaults.len() > 40, "{keys:?}");
    for (section, key, _) in &keys.defaults {
        let text = keys.text(section, key);
        assert!(text.is_some_and(|t| t.ends_with('.')), "reference/keys.toml does not explain [{section}] {key}");
    }
    for section in keys.explained() {
        assert!(keys.sections.contains(section), "there is no section [{section}]");
        for key in keys.unset(section) {
            assert!(key.contains("NAME"), "[{section}] {key} is explained, but there is no such key");
        }
    }
}

#[test]
fn every_option_is_explained() {
    fn check(command: &clap::Command) {
        for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{} --{}", command.get_name(), argument.get_long().unwrap());
        }
        assert!(command.is_hide_set() || command.get_about().is_some(), "{}", command.get_name());
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
    Cli::command().debug_assert();
}

#[test]
fn the_committed_reference_is_what_the_program_says() {
    for (what, file) in [(Reference::Cli, "cli.md"), (Reference::Config, "config.md")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(file);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed.trim_end() == print(what).trim_end(),
            "docs/reference/{file} is out of date: run `make golden`"
        );
    }
}
