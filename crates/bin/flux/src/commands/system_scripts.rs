//! The scripts of a site around its jobs: which there are, and how they are run.
//!
//! A stage is `prolog`, `epilog` or `housekeeping`. It runs the executables of
//! `LIBEXEC/STAGE.d`, which packages bring, then `/etc/flux/system/STAGE` of the site, or, where
//! there is none, the executables of `/etc/flux/system/STAGE.d`, by name.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use crate::output;

/// The stages.
pub(crate) const STAGES: [&str; 3] = ["prolog", "epilog", "housekeeping"];
/// Where the site puts its scripts.
pub(crate) const SYSTEM: &str = "/etc/flux/system";
/// Where packages put theirs.
const LIBEXEC: &str = "/usr/libexec/flux";

/// The scripts of a stage in the order in which they run.
///
/// # Errors
/// A directory that cannot be read, and as root a script that others can change.
pub(crate) fn of_stage(stage: &str) -> Result<Vec<PathBuf>, String> {
    below(Path::new(LIBEXEC), Path::new(SYSTEM), stage)
}

fn below(libexec: &Path, system: &Path, stage: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = of_directory(&libexec.join(format!("{stage}.d")))?;
    let single = system.join(stage);
    if is_executable(&single) {
        found.push(single);
    } else {
        found.extend(of_directory(&system.join(format!("{stage}.d")))?);
    }
    if nix::unistd::geteuid().is_root() {
        for script in &found {
            trusted(script)?;
        }
    }
    Ok(found)
}

/// The executables of a directory by name. One that is not there has none.
///
/// # Errors
/// It cannot be read.
pub(crate) fn of_directory(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| is_executable(path))
        .collect();
    found.sort();
    Ok(found)
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.mode() & 0o111 != 0)
}

/// Root runs what only root can change.
fn trusted(script: &Path) -> Result<(), String> {
    let real =
        std::fs::canonicalize(script).map_err(|error| format!("{}: {error}", script.display()))?;
    for path in real.ancestors() {
        let found =
            std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // A sticky directory lets nobody replace what is another's.
        let writable = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if found.uid() != 0 || writable {
            return Err(format!(
                "{}: {} can be changed by others than root: it is not run",
                script.display(),
                path.display()
            ));
        }
    }
    Ok(())
}

/// Runs scripts one after the other, all of them unless `stop_at_first` and one fails. The highest
/// exit code.
///
/// # Errors
/// A script that cannot be started.
pub(crate) fn run(
    program: &str,
    scripts: &[PathBuf],
    stop_at_first: bool,
    verbose: bool,
) -> Result<i32, String> {
    let mut worst = 0;
    for script in scripts {
        if verbose {
            output::error_line(&format!("{program}: running {}", script.display()));
        }
        let code = status(&mut Process::new(script), &script.display().to_string())?;
        if code != 0 {
            output::error_line(&format!("{program}: {}: exit code {code}", script.display()));
        }
        worst = worst.max(code);
        if code != 0 && stop_at_first {
            break;
        }
    }
    Ok(worst)
}

/// Runs a process to its end; the exit code, or 128 and the signal.
///
/// # Errors
/// It cannot be started.
pub(crate) fn status(process: &mut Process, name: &str) -> Result<i32, String> {
    let status = process.status().map_err(|error| format!("{name}: {error}"))?;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(path: &Path, text: &str, mode: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn packages_come_first_then_the_sites_script_or_directory_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (libexec, system) = (directory.path().join("l"), directory.path().join("s"));
        let names = || -> Vec<String> {
            let mut found = of_directory(&libexec.join("prolog.d")).unwrap();
            let single = system.join("prolog");
            if is_executable(&single) {
                found.push(single);
            } else {
                found.extend(of_directory(&system.join("prolog.d")).unwrap());
            }
            let short =
                |path: PathBuf| path.strip_prefix(directory.path()).unwrap().display().to_string();
            found.into_iter().map(short).collect()
        };
        assert_eq!(names(), Vec::<String>::new());
        script(&system.join("prolog.d/20-b"), "true", 0o755);
        script(&system.join("prolog.d/10-a"), "true", 0o755);
        script(&system.join("prolog.d/README"), "true", 0o644);
        script(&libexec.join("prolog.d/z"), "true", 0o755);
        assert_eq!(names(), ["l/prolog.d/z", "s/prolog.d/10-a", "s/prolog.d/20-b"]);
        script(&system.join("prolog"), "true", 0o755);
        assert_eq!(names(), ["l/prolog.d/z", "s/prolog"]);
        assert_eq!(of_directory(&system.join("nosuch.d")), Ok(Vec::new()));
        let file = system.join("file");
        std::fs::write(&file, "").unwrap();
        let error = of_directory(&file).unwrap_err();
        assert_eq!(error, format!("{}: Not a directory (os error 20)", file.display()));
    }

    #[test]
    fn all_run_and_the_worst_counts_unless_the_first_failure_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let log = mark.display();
        let files: Vec<PathBuf> = ["a", "b", "c"].map(|name| directory.path().join(name)).into();
        script(&files[0], &format!("echo a >>{log}; exit 3"), 0o755);
        script(&files[1], &format!("echo b >>{log}; kill -9 $$"), 0o755);
        script(&files[2], &format!("echo c >>{log}"), 0o755);
        assert_eq!(run("t", &files, false, false), Ok(137));
        assert_eq!(run("t", &files, true, true), Ok(3));
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "a\nb\nc\na\n");
        assert!(run("t", &[directory.path().join("nosuch")], false, false).is_err());
    }

    #[test]
    fn root_runs_only_what_is_roots() {
        assert_eq!(trusted(Path::new("/bin/sh")), Ok(()));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("open");
        script(&file, "true", 0o777);
        assert!(trusted(&file).unwrap_err().ends_with("others than root: it is not run"));
    }
}
