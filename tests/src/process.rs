//! Child processes that never outlive a test.
//!
//! A [`Process`] is killed when it is dropped. Should the test process itself be killed, the kernel kills its
//! children: they are started through `setpriv --pdeathsig`, which costs no `unsafe` here. That signal comes at the
//! death of the *thread* that started the child, so one thread, which never ends, starts them all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::netns::Namespace;

/// How many lines of a log a failing test shows.
const SHOWN_LINES: usize = 40;

type Start = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The thread that starts children.
static STARTER: LazyLock<mpsc::SyncSender<Start>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::sync_channel::<Start>(16);
    thread::spawn(move || {
        for (mut command, started) in receiver {
            // Whoever asked may be gone; then nobody waits for the child, and dropping the handle leaves it.
            if let Err(mpsc::SendError(Ok(mut orphan))) = started.send(command.spawn()) {
                orphan.kill().ok();
            }
        }
    });
    sender
});

/// A running program, its standard error (and output, unless taken) in a log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What to start.
#[derive(Debug)]
pub struct Spec {
    command: Command,
    name: String,
    log: PathBuf,
}

impl Spec {
    /// A program whose log goes to `<directory>/<name>.log`.
    pub fn new(program: &Path, name: &str, directory: &Path) -> Self {
        Self::within(None, program, name, directory)
    }

    /// The same, in a network namespace if one is named.
    pub fn within(namespace: Option<&Namespace>, program: &Path, name: &str, directory: &Path) -> Self {
        let entrance = namespace.map(Namespace::entrance);
        Self::behind(entrance.as_ref().map_or(&[], <[OsString; 3]>::as_slice), program, name, directory)
    }

    /// The same, behind words that come before its command line and end in an exec of it.
    pub fn behind(entrance: &[OsString], program: &Path, name: &str, directory: &Path) -> Self {
        // Each of these becomes the next by exec: the process id stays that of the program.
        let mut words: Vec<OsString> = Vec::new();
        if let Some(setpriv) = crate::tool::setpriv() {
            words.extend([setpriv.into(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
        }
        words.extend_from_slice(entrance);
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        Self { command, name: name.to_owned(), log: directory.join(format!("{name}.log")) }
    }

    /// The command, to add arguments and environment to.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it, with standard output in the log too.
    ///
    /// # Errors
    /// If the log cannot be written or the program not be started.
    pub fn start(mut self) -> Result<Process> {
        let log = self.open_log()?;
        self.command.stdout(log);
        self.spawn()
    }

    /// Starts it and hands over its standard output.
    ///
    /// # Errors
    /// If the log cannot be written or the program not be started.
    pub fn start_with_output(mut self) -> Result<(Process, ChildStdout)> {
        self.command.stdout(Stdio::piped());
        let mut process = self.spawn()?;
        let output = process.child.stdout.take().context("the child has no standard output")?;
        Ok((process, output))
    }

    fn open_log(&self) -> Result<File> {
        let open = File::options().create(true).append(true).open(&self.log);
        open.with_context(|| format!("cannot write {}", self.log.display()))
    }

    fn spawn(mut self) -> Result<Process> {
        self.command.stderr(self.open_log()?);
        let program = self.command.get_program().to_owned();
        let (sender, receiver) = mpsc::sync_channel(1);
        let gone = "the thread that starts children ended";
        STARTER.send((self.command, sender)).ok().context(gone)?;
        let child = receiver.recv().context(gone)?;
        let child = child.with_context(|| format!("cannot start {} ({})", self.name, program.display()))?;
        Ok(Process { name: self.name, child, log: self.log })
    }
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its whole log so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it as a power cut would: at once, with no word to it.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it still runs after `patience`; it is killed then.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal("TERM", patience)
    }

    /// Interrupts it as Ctrl-C does (SIGINT) and waits for its end.
    ///
    /// # Errors
    /// If it still runs after `patience`; it is killed then.
    pub fn interrupt(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal("INT", patience)
    }

    /// Has it stand still (SIGSTOP): its connections stay, and it answers nothing.
    ///
    /// # Errors
    /// If there is no shell.
    pub fn freeze(&self) -> Result<()> {
        self.send("STOP")
    }

    /// Undoes [`Self::freeze`] (SIGCONT).
    ///
    /// # Errors
    /// If there is no shell.
    pub fn thaw(&self) -> Result<()> {
        self.send("CONT")
    }

    /// Asks it to read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// If there is no shell.
    pub fn reload(&self) -> Result<()> {
        self.send("HUP")
    }

    fn signal(&mut self, signal: &str, patience: Duration) -> Result<ExitStatus> {
        self.send(signal)?;
        self.wait(patience)
    }

    fn send(&self, signal: &str) -> Result<()> {
        // The shell's own `kill`: signals without unsafe code.
        let id = self.child.id().to_string();
        Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "sh", signal, &id]).status()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `patience`; it is killed then.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                self.kill();
                bail!("{} did not end within {} s\n{}", self.name, patience.as_secs(), self.tail());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of its log, for a failure's text.
    pub fn tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("--- the end of {}'s log ---\n{}\n", self.name, shown.join("\n"))
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the log of a process in a failed test belongs to the failure")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

/// A command line behind words that end in an exec of it.
pub fn command_behind(entrance: &[OsString], program: &Path) -> Command {
    let mut words = entrance.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or(program.as_os_str()));
    command.args(words);
    command
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// If it cannot be started, or exits with anything but 0: with what it said on both outputs.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_owned();
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("cannot start {}", program.display()))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    bail!(
        "{command:?} failed: {}\n{}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    )
}

/// Asks `question` until it answers with something.
///
/// # Errors
/// If it does not within `patience`. The text says what was waited for.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut question: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = question().await {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("{what}: not within {} s", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Process {
        let mut spec = Spec::new(Path::new("/bin/sleep"), "sleeper", directory);
        spec.command().arg("600");
        spec.start().unwrap()
    }

    #[test]
    fn a_dropped_process_is_dead() {
        let directory = tempfile::tempdir().unwrap();
        let process = sleeper(directory.path());
        let id = process.id();
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn stop_asks_and_a_failure_shows_what_was_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sleeper(directory.path());
        assert!(process.is_running());
        assert!(!process.stop(Duration::from_secs(5)).unwrap().success());
        let error =
            output(Command::new("/bin/sh").args(["-c", "echo said; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("said") && error.contains('3'), "{error}");
    }
}
