//! A change of one file, for people.

use std::path::PathBuf;

/// A file that is to change.
#[derive(Debug)]
pub(super) struct Change {
    /// Where.
    pub(super) path: PathBuf,
    /// Its text now; none if it does not exist.
    pub(super) before: Option<String>,
    /// Its text then; none if it is to be removed.
    pub(super) after: Option<String>,
}

impl Change {
    /// What was done, in a word.
    pub(super) fn verb(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "made",
            (_, None) => "removed",
            _ => "changed",
        }
    }

    /// The way back.
    pub(super) fn back(&self) -> Self {
        Self { path: self.path.clone(), before: self.after.clone(), after: self.before.clone() }
    }

    /// What is to be done, as `diff -u` shows it.
    pub(super) fn diff(&self) -> String {
        let name = |text: &Option<String>| match text {
            Some(_) => self.path.display().to_string(),
            None => "/dev/null".to_owned(),
        };
        let (before, after) =
            (self.before.as_deref().unwrap_or_default(), self.after.as_deref().unwrap_or_default());
        let diff = similar::TextDiff::from_lines(before, after);
        diff.unified_diff().context_radius(3).header(&name(&self.before), &name(&self.after)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_as_diff_shows_it() {
        let change = |before: Option<&str>, after: Option<&str>| Change {
            path: PathBuf::from("/etc/f"),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let changed = change(Some("a\nb\n"), Some("a\nc"));
        let shown = "--- /etc/f\n+++ /etc/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n";
        assert_eq!((changed.verb(), changed.diff().as_str()), ("changed", shown));
        let made = change(None, Some("a\n"));
        assert_eq!(
            (made.verb(), made.diff().as_str()),
            ("made", "--- /dev/null\n+++ /etc/f\n@@ -0,0 +1 @@\n+a\n")
        );
        let removed = change(Some("a\n"), None);
        assert_eq!(
            (removed.verb(), removed.diff().as_str()),
            ("removed", "--- /etc/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n")
        );
    }
}
