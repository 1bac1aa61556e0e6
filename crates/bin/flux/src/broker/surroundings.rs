//! Directories, environment and identity of a broker process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flux_lifecycle::Attributes;

/// Where a temporary directory goes.
pub(crate) fn temporary() -> PathBuf {
    std::env::var_os("TMPDIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| "/tmp".into(), PathBuf::from)
}

/// Random bytes from the kernel.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A random number.
pub(crate) fn seed() -> io::Result<u64> {
    Ok(u64::from_le_bytes(random()?))
}

/// A UUID of version 4 as text.
pub(crate) fn uuid() -> io::Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Makes a directory `flux-XXXXXX` of mode 0700.
pub(crate) fn unique_directory() -> io::Result<PathBuf> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let base = temporary();
    for _ in 0..64 {
        let name: String =
            random::<6>()?.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect();
        let path = base.join(format!("flux-{name}"));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{}: no free name", base.display())))
}

/// A directory named by an attribute: made when it is missing, unique when it is not named.
fn directory(
    attributes: &mut Attributes,
    name: &str,
    make: impl FnOnce() -> io::Result<PathBuf>,
) -> Result<PathBuf, String> {
    let cleanup = format!("{name}-cleanup");
    match attributes.get(name).map(PathBuf::from) {
        Some(path) => {
            let path = std::path::absolute(&path).map_err(|error| format!("{name}: {error}"))?;
            if path.exists() {
                if !path.is_dir() {
                    return Err(format!("{name}: {} is not a directory", path.display()));
                }
                if attributes.get(&cleanup).is_none() {
                    attributes.set(&cleanup, "0");
                }
            } else {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(&path)
                    .map_err(|error| format!("{name}: {}: {error}", path.display()))?;
                if attributes.get(&cleanup).is_none() {
                    attributes.set(&cleanup, "1");
                }
            }
            attributes.set(name, path.display().to_string());
            Ok(path)
        }
        None => {
            let path = make().map_err(|error| format!("{name}: {error}"))?;
            attributes.set(name, path.display().to_string());
            attributes.set(&cleanup, "1");
            Ok(path)
        }
    }
}

/// The directory of sockets.
pub(crate) fn rundir(attributes: &mut Attributes) -> Result<PathBuf, String> {
    directory(attributes, "rundir", unique_directory)
}

/// Attributes that units of earlier years set: the file of the store stands for its directory, and
/// the time that a quorum may take, after which nothing ended, for that of the warning.
///
/// # Errors
/// The sentence to show: a file of another name, or in another directory than the state.
pub(crate) fn earlier_names(attributes: &mut Attributes) -> Result<(), String> {
    if let Some(text) = attributes.given("content.backing-path") {
        let path = Path::new(text);
        let directory = path.parent().filter(|parent| parent.is_absolute());
        let directory =
            directory.filter(|_| path.file_name().is_some_and(|n| n == "content.sqlite"));
        let Some(directory) = directory.map(|directory| directory.display().to_string()) else {
            return Err(format!(
                "content.backing-path: '{text}': expected DIRECTORY/content.sqlite, where DIRECTORY \
                 begins with / and is the state directory"
            ));
        };
        match attributes.given("statedir") {
            None => attributes.set("statedir", directory),
            Some(statedir) if Path::new(statedir) == Path::new(&directory) => {}
            Some(statedir) => {
                return Err(format!(
                    "content.backing-path: '{text}' is not in the state directory {statedir}"
                ));
            }
        }
    }
    if let Some(time) = attributes.given("broker.quorum-timeout").map(str::to_string)
        && attributes.given("broker.quorum-warn").is_none()
    {
        attributes.set("broker.quorum-warn", time);
    }
    Ok(())
}

/// The directory of persistent state.
pub(crate) fn statedir(attributes: &mut Attributes, rundir: &Path) -> Result<PathBuf, String> {
    // One that was asked for stays, also when it has to be made.
    if attributes.get("statedir").is_some() && attributes.get("statedir-cleanup").is_none() {
        attributes.set("statedir-cleanup", "0");
    }
    let path = directory(attributes, "statedir", || {
        let path = rundir.join("state");
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&path)?;
        Ok(path)
    })?;
    let probe =
        fs::metadata(&path).map_err(|error| format!("statedir: {}: {error}", path.display()))?;
    if probe.permissions().mode() & 0o022 != 0 {
        return Err(format!(
            "statedir: {} may be written by others: chmod go-w it",
            path.display()
        ));
    }
    Ok(path)
}

/// The directory of records of job shells, below which each rank has its own, and whether the
/// instance can come back: then they are with its persistent state, since a directory of sockets
/// may go with a reboot or with its service.
pub(crate) fn job_rundir(
    attributes: &mut Attributes,
    rundir: &Path,
) -> Result<(PathBuf, bool), String> {
    let statedir = attributes
        .get("statedir")
        .filter(|_| !attributes.is_on("statedir-cleanup"))
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    let durable = statedir.is_some();
    let path = match attributes.get("job-rundir") {
        Some(path) => PathBuf::from(path),
        None => statedir.unwrap_or_else(|| rundir.to_path_buf()).join("jobs"),
    };
    let path = std::path::absolute(&path).map_err(|error| format!("job-rundir: {error}"))?;
    attributes.set("job-rundir", path.display().to_string());
    Ok((path, durable))
}

/// Removes what this broker made.
pub(crate) fn clean_up(attributes: &Attributes) {
    for name in ["statedir", "rundir"] {
        if attributes.is_on(&format!("{name}-cleanup"))
            && let Some(path) = attributes.get(name)
        {
            // Another broker of a test instance may be faster.
            fs::remove_dir_all(path).ok();
        }
    }
}

/// Variables that tell of the enclosing instance or its launcher, and are not passed on.
const REMOVED: [&str; 13] = [
    "FLUX_LAUNCH_ID",
    "FLUX_LAUNCH_UNIT",
    "FLUX_JOB_ID",
    "FLUX_ENCLOSING_ID",
    "FLUX_JOB_SIZE",
    "FLUX_JOB_NNODES",
    "FLUX_JOB_TMPDIR",
    "FLUX_TASK_RANK",
    "FLUX_TASK_LOCAL_ID",
    "FLUX_KVS_NAMESPACE",
    "FLUX_PROXY_REMOTE",
    "FLUX_PMI_LIBRARY_PATH",
    "NOTIFY_SOCKET",
];

/// The environment of processes that the broker starts.
pub(crate) fn environment(local_uri: &str, jobid: Option<&str>) -> BTreeMap<String, String> {
    let foreign = ["PMI_", "PMIX_", "SLURM_", "PALS_"];
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !REMOVED.contains(&name.as_str()) && name != "I_MPI_PMI_LIBRARY")
        .filter(|(name, _)| !foreign.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    env.insert("FLUX_URI".to_string(), local_uri.to_string());
    if let Some(jobid) = jobid {
        env.insert("FLUX_ENCLOSING_ID".to_string(), jobid.to_string());
    }
    // A job finds the same program that runs the instance.
    if let Ok(program) = std::env::current_exe()
        && let Some(directory) = program.parent()
    {
        let path = env.get("PATH").cloned().unwrap_or_default();
        let directory = directory.display().to_string();
        if !path.split(':').any(|entry| entry == directory) {
            env.insert("PATH".to_string(), format!("{directory}:{path}"));
        }
    }
    env
}

/// Writes down where the broker of this node listens; returns the name of the file.
pub(crate) fn announce(directory: &Path, uri: &str) -> Result<String, String> {
    let file = directory.join("uri");
    let written = || -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        // Whoever reads it meanwhile reads one or the other.
        let new = directory.join("uri.new");
        fs::write(&new, uri)?;
        fs::rename(new, &file)
    };
    written().map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file.display().to_string())
}

/// The files of the directory that `cron.directory` (attribute, or key of the configuration)
/// names, by name.
///
/// # Errors
/// A directory or file that cannot be read.
pub(crate) fn crontabs(
    attributes: &Attributes,
    config: &serde_json::Map<String, serde_json::Value>,
) -> Result<Vec<(String, String)>, String> {
    let key = config.get("cron").and_then(|table| table.get("directory")?.as_str());
    let named = attributes.get("cron.directory").or(key);
    let Some(directory) = named.filter(|path| !path.is_empty()) else {
        return Ok(Vec::new());
    };
    let wrong =
        |path: &Path, error: std::io::Error| format!("cron.directory: {}: {error}", path.display());
    let directory = Path::new(directory);
    let mut paths = Vec::new();
    let entries = std::fs::read_dir(directory).map_err(|error| wrong(directory, error))?;
    for entry in entries {
        let path = entry.map_err(|error| wrong(directory, error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).map_err(|error| wrong(&path, error))?;
            Ok((path.display().to_string(), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_form() {
        let uuid = uuid().unwrap();
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
    }

    #[test]
    fn a_directory_that_was_made_is_removed_and_one_that_was_there_stays() {
        let base = tempfile::tempdir().unwrap();
        let made = base.path().join("made");
        let mut attributes = Attributes::new();
        attributes.set("rundir", made.display().to_string());
        assert_eq!(rundir(&mut attributes).unwrap(), made);
        clean_up(&attributes);
        assert!(!made.exists());
        let mut attributes = Attributes::new();
        attributes.set("rundir", base.path().display().to_string());
        rundir(&mut attributes).unwrap();
        clean_up(&attributes);
        assert!(base.path().exists());
    }
}
