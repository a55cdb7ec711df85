//! What no answer may show: the machine, the platform's inside, other functions' values, and in
//! the platform's own words those of the guest.

use super::call::Outcome;

/// What the guests say where only their log may hear it.
const GUESTS_WORDS: &[&str] = &["the guest's words", "FORGED", "forged"];
/// Signs of the inside, which the platform's words never hold.
const INSIDE: &[&str] = &["panicked at", "backtrace", "wasm", ".rs:", "0x", "RUST_", "stack:"];

/// What is looked for in every answer.
#[derive(Debug, Clone)]
pub(super) struct Canaries {
    everywhere: Vec<String>,
}

impl Canaries {
    /// Makes them of secrets and paths of this run; empty ones are left out.
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        Self { everywhere: secrets.into_iter().filter(|secret| secret.len() > 3).collect() }
    }

    /// Returns what an answer shows and should not.
    pub(super) fn found(&self, outcome: &Outcome) -> Option<String> {
        let mut text = String::from_utf8_lossy(&outcome.body).into_owned();
        for (name, value) in &outcome.headers {
            text.push_str(&format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        self.found_in(&text, outcome.by_platform)
    }

    /// The same for a text, such as what the CLI printed.
    pub(super) fn found_in(&self, text: &str, by_platform: bool) -> Option<String> {
        let own = GUESTS_WORDS.iter().chain(INSIDE).copied().filter(|_| by_platform);
        let found = self.everywhere.iter().map(String::as_str).chain(own).find(|secret| text.contains(secret))?;
        Some(format!("an answer shows `{found}`: {}", text.chars().take(400).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_everywhere_and_the_guests_words_where_the_platform_speaks() {
        let canaries = Canaries::new(["/srv/data".to_owned(), String::new()]);
        assert!(canaries.found_in("at /srv/data/x", false).is_some());
        assert!(canaries.found_in("panicked at x.rs:1", true).is_some());
        assert!(canaries.found_in("panicked at x.rs:1", false).is_none(), "a guest may say so of itself");
        assert!(canaries.found_in("all is well", true).is_none());
    }
}
