//! Markdown of what a program says about itself: every option of a command line, every key of its settings.
//!
//! **Never knows** which program it is.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// Returns every command and option, after `intro`.
#[must_use]
pub fn cli(intro: &str, name: &str, mut command: Command) -> String {
    command.build();
    let mut out = String::from(intro);
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        section(&mut out, name, sub);
    }
    out
}

fn section(out: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    write!(out, "\n## `{name}`\n\n{}.\n", about(command)).ok();
    let usage = command.clone().render_usage().to_string();
    write!(out, "\n```\n{}\n```\n", usage.trim_start_matches("Usage: ")).ok();
    let arguments: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "help").collect();
    let arguments: Vec<&Arg> = arguments.into_iter().filter(|a| a.get_id() != "version").collect();
    if !arguments.is_empty() {
        out.push_str("\n| option | variable | default | meaning |\n|---|---|---|---|\n");
        arguments.iter().for_each(|argument| row(out, argument));
    }
    if let Some(after) = command.get_after_help() {
        write!(out, "\n```\n{after}\n```\n").ok();
    }
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        section(out, &name, sub);
    }
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn row(out: &mut String, argument: &Arg) {
    let values: Vec<String> = argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = argument.get_action().takes_values();
    let value = if takes { format!(" {}", values.join(" ")) } else { String::new() };
    let option = match (argument.get_long(), argument.get_short()) {
        (Some(long), Some(short)) => format!("--{long}, -{short}{value}"),
        (Some(long), None) => format!("--{long}{value}"),
        _ => values.join(" "),
    };
    let variable = argument.get_env().map(|e| format!("`{}`", e.to_string_lossy())).unwrap_or_default();
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let default = if defaults.is_empty() || !takes { String::new() } else { format!("`{}`", defaults.join(" ")) };
    let choices: Vec<String> = argument.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
    let choices = if choices.is_empty() || !takes { String::new() } else { format!(" ({})", choices.join(", ")) };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    writeln!(out, "| `{}` | {variable} | {default} | {}{choices} |", bars(&option), bars(&help)).ok();
}

/// A bar would end a cell.
fn bars(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Every key of some settings: their defaults, and what they mean.
#[derive(Debug)]
pub struct Keys {
    /// Section, key and default.
    pub defaults: Vec<(String, String, String)>,
    /// The sections in their order.
    pub sections: Vec<String>,
    docs: toml::Table,
}

impl Keys {
    /// Returns the keys of the defaults, in TOML, that `docs` explains: in TOML as well, a table of texts per section,
    /// `about` that of the section itself. `more` are sections without defaults.
    ///
    /// # Errors
    /// When `docs` is no TOML.
    pub fn new(defaults: &str, docs: &str, more: &[&str]) -> Result<Self, toml::de::Error> {
        let headings = defaults.lines().filter_map(heading).filter(|heading| !heading.contains('.'));
        let sections = headings.chain(more.iter().copied()).map(str::to_owned).collect();
        let (mut section, mut found) = ("", Vec::new());
        for line in defaults.lines() {
            if let Some(heading) = heading(line) {
                section = heading;
            } else if let Some((key, value)) = line.split_once(" = ") {
                found.push((section.to_owned(), key.to_owned(), value.to_owned()));
            }
        }
        Ok(Self { defaults: found, sections, docs: toml::from_str(docs)? })
    }

    /// Returns every key, after `intro`.
    #[must_use]
    pub fn markdown(&self, intro: &str) -> String {
        let mut out = String::from(intro);
        for section in &self.sections {
            let about = self.text(section, "about").unwrap_or_default();
            write!(out, "\n## `[{section}]`\n\n{about}\n\n| key | default | meaning |\n|---|---|---|\n").ok();
            for (_, key, default) in self.defaults.iter().filter(|(s, ..)| s == section) {
                let text = bars(self.text(section, key).unwrap_or_default());
                writeln!(out, "| `{key}` | `{default}` | {text} |").ok();
            }
            for key in self.unset(section) {
                writeln!(out, "| `{key}` | | {} |", bars(self.text(section, key).unwrap_or_default())).ok();
            }
        }
        out
    }

    /// Returns what a key means.
    #[must_use]
    pub fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.docs.get(section)?.get(key)?.as_str()
    }

    /// Returns the sections that are explained.
    pub fn explained(&self) -> impl Iterator<Item = &String> {
        self.docs.keys()
    }

    /// Returns the keys of a section that are explained and have no default.
    #[must_use]
    pub fn unset(&self, section: &str) -> Vec<&String> {
        let known = |key: &str| key == "about" || self.defaults.iter().any(|(s, k, _)| s == section && k == key);
        let all = self.docs.get(section).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
        all.filter(|key| !known(key)).collect()
    }
}

fn heading(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_with_their_variables_defaults_and_choices() {
        let option = Arg::new("speed").long("speed").short('s').env("SPEED").value_name("HOW").default_value("fast");
        let option = option.value_parser(["fast", "slow"]).help("How fast | how slow");
        let run = Command::new("run").about("Runs it").arg(option).subcommand(Command::new("twice").about("Again"));
        let hidden = Command::new("secret").hide(true);
        let text = cli("# Line\n", "it", Command::new("it").subcommands([run, hidden]));
        assert!(text.starts_with("# Line\n\n## `it run`\n\nRuns it.\n"), "{text}");
        let row = "| `--speed, -s HOW` | `SPEED` | `fast` | How fast \\| how slow (fast, slow) |";
        assert!(text.contains(row) && text.contains("## `it run twice`") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn keys_are_told_by_section_those_without_a_default_last() {
        let docs = "[a]\nabout = \"First.\"\none = \"The one.\"\nnone = \"No default.\"\n[b]\nabout = \"Later.\"\n";
        let keys = Keys::new("[a]\none = 1\n[a.inner]\ntwo = 2\n", docs, &["b"]).unwrap();
        let text = keys.markdown("# Keys\n");
        let head = "| key | default | meaning |\n|---|---|---|\n";
        let wanted = format!(
            "# Keys\n\n## `[a]`\n\nFirst.\n\n{head}| `one` | `1` | The one. |\n| `none` | | No default. |\n\n## `[b]`\n\nLater.\n\n{head}"
        );
        assert_eq!(text, wanted);
        assert!(Keys::new("", "no toml", &[]).is_err());
    }
}
