//! Docker Desktop, which is refused: its engine runs in a virtual machine, where 127.0.0.1 is the machine's own, and
//! reads no file of the host's `/etc/docker`. What would be written here would change nothing.
//!
//! Beside it there may be a Docker Engine, whose file that is: so what counts is which of them people's `docker` speaks to.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mirror::Files;
use super::problem::Problem;

/// The context of Docker's client that leads to Docker Desktop, on every system.
const CONTEXT: &str = "desktop-linux";
/// Where Docker Desktop for Windows mounts itself in a Linux that it serves.
const IN_WSL: &str = "/mnt/wsl/docker-desktop";

/// Refuses a host whose `docker` is Docker Desktop's. `home` is the folder of who asks, if this is his machine.
pub(super) fn refuse(files: &dyn Files, home: Option<&Path>) -> Result<(), Problem> {
    // A folder that may not be read says nothing, and neither does a file that Docker itself could not read.
    let people = files.list(Path::new("/home")).unwrap_or_default();
    let homes = home.map(Path::to_owned).into_iter().chain([PathBuf::from("/root")]).chain(people);
    for home in homes {
        let path = home.join(".docker/config.json");
        let text = files.read(&path).ok().flatten().unwrap_or_default();
        let config: Value = serde_json::from_str(&text).unwrap_or_default();
        if config["currentContext"] == CONTEXT {
            return Err(refused(&path, "says that docker speaks to Docker Desktop"));
        }
    }
    let wsl = Path::new(IN_WSL);
    if files.list(wsl).is_ok_and(|found| !found.is_empty()) {
        return Err(refused(wsl, "is Docker Desktop's, which serves this Linux"));
    }
    Ok(())
}

fn refused(path: &Path, found: &str) -> Problem {
    Problem::file(
        path,
        format!(
            "{found}. Its engine runs in a virtual machine, where 127.0.0.1 is not this machine, and does not read \
             /etc/docker/daemon.json"
        ),
        "use Docker Engine instead (docker context use default). If there is one beside Docker Desktop and it is meant, \
         say --config-dir /etc/docker",
    )
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::Memory;
    use super::*;

    const DESKTOP: &str = r#"{"auths": {}, "currentContext": "desktop-linux"}"#;

    fn asked(files: &[(&str, &str)], home: Option<&str>) -> Result<(), Problem> {
        refuse(&Memory::with(files), home.map(Path::new))
    }

    #[test]
    fn docker_desktop_is_refused_with_the_reason_and_what_to_do() {
        for (path, home) in
            [("/home/me/.docker/config.json", None), ("/data/me/.docker/config.json", Some("/data/me"))]
        {
            let said = asked(&[(path, DESKTOP)], home).unwrap_err().to_string();
            assert!(said.starts_with(path), "{said}");
            for part in ["virtual machine", "docker context use default", "--config-dir /etc/docker"] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }

    #[test]
    fn a_linux_that_windows_serves_is_seen() {
        let said = asked(&[("/mnt/wsl/docker-desktop/cli-tools", "")], None).unwrap_err().to_string();
        assert!(said.contains("Docker Desktop"), "{said}");
    }

    #[test]
    fn an_engine_is_not_taken_for_it() {
        for text in [r#"{"currentContext": "default"}"#, r#"{"auths": {}}"#, "", "{", "[]", "null"] {
            asked(&[("/root/.docker/config.json", text)], None).unwrap();
        }
        asked(&[], None).unwrap();
    }
}
