//! Docker's credential helpers: programs `docker-credential-NAME` that say a login on standard output.
//!
//! A helper is somebody's program. It gets 10 s and 64 KiB, runs as a process beside the runtime, one at a time for a
//! registry, and goes on when whoever asked has left: a helper that needs longer than a request may wait is there for the
//! next.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Login;
use crate::upstream::config::is_helper_name;

/// The user name by which a helper says that its secret is an identity token.
pub(super) const IDENTITY: &str = "<token>";
/// How long a helper may run.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long an answer is used before the helper is asked again: ECR's tokens last for 12 h, others an hour.
const KEPT: Duration = Duration::from_mins(5);
/// A helper is not asked more often than this, even if the registry refuses what it says or it fails.
const PAUSE: Duration = Duration::from_secs(10);

/// What a helper said, and when.
#[derive(Clone)]
struct Said {
    at: Instant,
    what: Result<Option<Login>, String>,
}

/// One helper for one registry. Its lock is held while somebody waits for its answer.
#[derive(Default)]
struct Slot {
    said: Option<Said>,
    /// The run that goes on, one at most.
    running: JoinSet<Said>,
}

/// Which helper was asked, and for which server.
type Asked = (String, String);

/// The helpers of one registry, and what they said. There are as many as the configuration names.
#[derive(Default)]
pub(super) struct Helpers {
    slots: Mutex<HashMap<Asked, Arc<tokio::sync::Mutex<Slot>>>>,
    /// Where helpers are looked for, if not in the `PATH`.
    path: Option<OsString>,
}

impl std::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Helpers")
    }
}

impl Helpers {
    /// The login that a helper has for a server, `None` if it has none; asked again if the last was `refused`.
    ///
    /// Cancel-safe: the run goes on.
    pub(super) async fn get(
        &self,
        name: &str,
        server: &str,
        refused: Option<&Login>,
    ) -> Result<Option<Login>, String> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry((name.to_owned(), server.to_owned())).or_default().clone()
        };
        let mut slot = slot.lock().await;
        // Whoever asked for it may have left before it came.
        if let Some(Ok(said)) = slot.running.try_join_next() {
            slot.said = Some(said);
        }
        if slot.running.is_empty() {
            if let Some(said) = slot.said.as_ref().filter(|said| said.is_good(refused)) {
                return said.what.clone();
            }
            let (name, server, path) = (name.to_owned(), server.to_owned(), self.path.clone());
            slot.running.spawn(async move {
                let what = bounded(&name, &server, path).await;
                Said { at: Instant::now(), what }
            });
        }
        match slot.running.join_next().await {
            Some(Ok(said)) => {
                slot.said = Some(said.clone());
                said.what
            }
            _ => Err(format!("docker-credential-{name}: running it was broken off")),
        }
    }
}

impl Said {
    fn is_good(&self, refused: Option<&Login>) -> bool {
        let age = self.at.elapsed();
        match &self.what {
            Ok(Some(login)) if refused != Some(login) => age < KEPT,
            _ => age < PAUSE,
        }
    }
}

/// Whether it can be the name of a helper.
pub(in crate::upstream) fn check_name(name: &str) -> Result<(), String> {
    if !is_helper_name(name) {
        let shown: String = name.chars().take(80).collect();
        return Err(format!(
            "{shown:?} is not the name of a helper: write NAME of a program docker-credential-NAME, as in ecr-login"
        ));
    }
    Ok(())
}

/// Whether the program is there, as far as can be seen before it is needed.
pub(in crate::upstream) fn check_program(name: &str) -> Result<(), String> {
    check_name(name)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = format!("docker-credential-{name}");
    if std::env::split_paths(&path).any(|folder| folder.join(&program).is_file()) {
        return Ok(());
    }
    Err(format!("{program} is in no folder of the PATH, {}: install it there", path.to_string_lossy()))
}

async fn bounded(name: &str, server: &str, path: Option<OsString>) -> Result<Option<Login>, String> {
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(PATIENCE, run(&program, server, path)).await {
        Ok(result) => result.map_err(|problem| format!("{program}: {problem}")),
        Err(_) => Err(format!("{program} did not answer for {server} within {} s", PATIENCE.as_secs())),
    }
}

/// Runs `PROGRAM get`, with the server's name on its standard input.
async fn run(program: &str, server: &str, path: Option<OsString>) -> Result<Option<Login>, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let cannot = |what: &'static str| move |problem: std::io::Error| format!("{what}: {problem}");
    let mut child = command.spawn().map_err(cannot("cannot be started"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that knows without asking may have ended already.
        stdin.write_all(server.as_bytes()).await.ok();
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER + 1).read_to_end(&mut said).await.map_err(cannot("cannot be read"))?;
    }
    if said.len() as u64 > MAX_ANSWER {
        return Err(format!("it says more than {MAX_ANSWER} bytes"));
    }
    let status = child.wait().await.map_err(cannot("its end is not known"))?;
    if !status.success() {
        let Some(words) = refusal(&said) else { return Ok(None) };
        // The problem reaches clients, and a helper may say anything.
        tracing::warn!(program, server, %status, words, "a credential helper failed");
        return Err(format!("it failed ({status}); what it says of that is in this node's log"));
    }
    answer(&said)
}

/// What a helper that failed says of why; `None` if it just has no login.
fn refusal(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    if text.contains("credentials not found") {
        return None;
    }
    // An answer after all would hold the secret.
    if text.is_empty() || text.contains('{') {
        return Some(String::new());
    }
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn answer(said: &[u8]) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let Ok(Answer { username, secret }) = serde_json::from_slice(said) else {
        return Err("its answer is not JSON with Username and Secret".to_owned());
    };
    if username.is_empty() && secret.is_empty() {
        return Ok(None);
    }
    if username == IDENTITY && !secret.is_empty() {
        return Ok(Some(Login::Identity(secret)));
    }
    let login = Login::password(&username, &secret);
    login.map(Some).ok_or_else(|| "its user or secret is empty, or no header can carry it".to_owned())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A helper that counts how often it is asked, and the folder in which it is.
    fn helper(script: &str) -> (Helpers, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("docker-credential-test");
        let text = format!("#!/bin/sh\necho x >>{}/runs\n{script}\n", folder.path().display());
        // Another process writes it: one that another test starts inherits what this one has open for an instant, and
        // a program that is open for writing cannot be started ("Text file busy").
        let write = ["-c", r#"printf %s "$1" >"$2" && chmod 755 "$2""#, "sh", &text];
        assert!(std::process::Command::new("/bin/sh").args(write).arg(&file).status().unwrap().success());
        let mut path = folder.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        (Helpers { path: Some(path), ..Default::default() }, folder)
    }

    fn runs(folder: &TempDir) -> usize {
        std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn it_is_asked_once_for_many() {
        let script = r#"read -r server; printf '{"ServerURL":"%s","Username":"u","Secret":"%s"}' "$server" "$1 $server""#;
        let (helpers, folder) = helper(script);
        let asked = (0..9).map(|_| helpers.get("test", "reg.test", None));
        let login = Login::password("u", "get reg.test");
        for said in futures::future::join_all(asked).await {
            assert_eq!(said, Ok(login.clone()));
        }
        assert_eq!(runs(&folder), 1);
        // One that was refused a moment ago is not asked for again at once.
        assert_eq!(helpers.get("test", "reg.test", login.as_ref()).await, Ok(login.clone()));
        assert_eq!(helpers.get("test", "other.test", None).await, Ok(Login::password("u", "get other.test")));
        assert_eq!(runs(&folder), 2);
    }

    #[tokio::test]
    async fn who_asked_may_leave_and_it_goes_on() {
        let script =
            r#"while [ ! -e "${0%/*}/go" ]; do sleep 0.05; done; echo '{"Username":"u","Secret":"s"}'"#;
        let (helpers, folder) = helper(script);
        let gone = tokio::time::timeout(Duration::from_millis(300), helpers.get("test", "reg.test", None));
        assert!(gone.await.is_err());
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert_eq!(helpers.get("test", "reg.test", None).await, Ok(Login::password("u", "s")));
        assert_eq!(runs(&folder), 1);
    }

    #[tokio::test]
    async fn what_it_may_say() {
        let identity = Ok(Some(Login::Identity("it".to_owned())));
        let error = |text: &str| Err(format!("docker-credential-test: {text}"));
        let failed = |code: i32| {
            error(&format!("it failed (exit status: {code}); what it says of that is in this node's log"))
        };
        let none = Ok(None);
        for (script, expected) in [
            (r#"echo '{"Username":"<token>","Secret":"it"}'"#, identity),
            ("echo 'credentials not found in native keychain'; exit 1", none.clone()),
            (r#"echo '{"Username":"","Secret":""}'"#, none),
            ("echo 'failed for token hunter2'; exit 1", failed(1)),
            (r#"echo '{"Secret":"hunter2"}'; exit 3"#, failed(3)),
            ("echo hunter2", error("its answer is not JSON with Username and Secret")),
            (
                r#"echo '{"Username":"u:v","Secret":"hunter2"}'"#,
                error("its user or secret is empty, or no header can carry it"),
            ),
            ("yes", error("it says more than 65536 bytes")),
        ] {
            assert_eq!(helper(script).0.get("test", "reg.test", None).await, expected, "{script}");
        }
        let missing = helper("").0.get("missing", "reg.test", None).await.unwrap_err();
        assert!(missing.contains("docker-credential-missing: cannot be started"), "{missing}");
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["ecr-login", "gcloud", "desktop.exe"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", "a/b", "../x", "a b", "a\0", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_program("no-such-helper").unwrap_err().contains("in no folder of the PATH"));
    }
}
