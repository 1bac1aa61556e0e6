use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn me() -> Trust {
    Trust::and(rustix::process::geteuid().as_raw())
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_of_ones_own_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    fs::write(&file, "x = 1").unwrap();
    mode(&file, 0o644);
    assert_eq!(me().read(&file).unwrap(), "x = 1");
}

#[test]
fn writable_files_and_directories_are_refused_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("conf.d");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("a.toml");
    fs::write(&file, "").unwrap();
    for (path, bad, good) in [
        (&file, 0o664, 0o644),
        (&file, 0o646, 0o644),
        (&inner, 0o775, 0o755),
        (&inner, 0o757, 0o755),
    ] {
        mode(path, bad);
        let error = me().read(&file).unwrap_err();
        assert!(matches!(error, TrustError::Writable { .. }), "{bad:o}: {error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        mode(path, good);
        me().read(&file).unwrap();
    }
}

#[test]
fn a_sticky_directory_is_no_place_for_what_root_alone_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    fs::write(&file, "").unwrap();
    mode(&file, 0o644);
    mode(dir.path(), 0o1777);
    me().read(&file).unwrap();
    assert!(Trust::ROOT.read(&file).is_err());
}

#[test]
fn links_are_followed_through_directories_of_the_trusted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("real"), "y").unwrap();
    mode(&dir.path().join("real"), 0o644);
    symlink("sub/../real", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    symlink(dir.path().join("link"), dir.path().join("absolute")).unwrap();
    assert_eq!(me().read(&dir.path().join("absolute")).unwrap(), "y");
    // A link into a place that others may change is refused there.
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::write(open.join("f"), "z").unwrap();
    mode(&open, 0o777);
    symlink(open.join("f"), dir.path().join("trap")).unwrap();
    assert!(matches!(me().read(&dir.path().join("trap")), Err(TrustError::Writable { .. })));
}

#[test]
fn endless_links_devices_directories_and_relative_paths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(matches!(me().read(&dir.path().join("loop")), Err(TrustError::Kind { .. })));
    assert!(me().read(Path::new("/dev/null")).is_err());
    assert!(matches!(me().read(dir.path()), Err(TrustError::Kind { .. })));
    assert!(matches!(me().read(Path::new("a.toml")), Err(TrustError::Relative(_))));
    assert!(matches!(me().read(&dir.path().join("none")), Err(TrustError::Io { .. })));
}

#[test]
fn patterns_name_the_files_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.toml", "a.toml", ".c.toml", "d.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let pattern = format!("{}/*.toml", dir.path().display());
    let names: Vec<_> = me().files(&pattern).unwrap();
    let names: Vec<_> = names.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["a.toml", "b.toml"]);
    assert!(me().files("/nonexistent/conf.d/*.toml").unwrap().is_empty());
}
