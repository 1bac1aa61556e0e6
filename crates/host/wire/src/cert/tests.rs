use std::os::unix::fs::PermissionsExt;

use super::*;

fn sample() -> Cert {
    let mut cert = Cert::from_keys(KeyPair::from_seed([7; 32]).unwrap());
    cert.set_metadata("name", "test \"1\"").unwrap();
    cert.set_origin("0.88.0").unwrap();
    cert
}

#[test]
fn what_is_saved_is_loaded_with_mode_0600() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("curve.cert");
    let cert = sample();
    cert.save(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let loaded = Cert::load(&path).unwrap();
    assert_eq!(loaded.public(), cert.public());
    assert_eq!(loaded.name(), Some("test \"1\""));
    assert_eq!(loaded.metadata("keygen.flux-core-version"), Some("0.88.0"));
    assert!(loaded.metadata("keygen.time").unwrap().ends_with('Z'));
    assert_eq!(loaded.metadata, cert.metadata);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("curve.cert");
    std::fs::write(&path, "precious").unwrap();
    let error = sample().save(&path).unwrap_err();
    assert!(matches!(&error, CertError::Io { source, .. }
        if source.kind() == io::ErrorKind::AlreadyExists));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_empty_private_file_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("curve.cert");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(sample().save(&path).is_err(), "others could read the key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = Cert::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("empty: make a certificate with flux keygen"), "{error}");
    sample().save(&path).unwrap();
    assert_eq!(Cert::load(&path).unwrap().public(), sample().public());
    assert!(sample().save(&path).is_err(), "now it holds a key");
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("curve.cert");
    sample().save(&path).unwrap();
    for mode in [0o640, 0o604, 0o644] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let text = Cert::load(&path).unwrap_err().to_string();
        assert_eq!(text, format!("{}: readable by group/other", path.display()));
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let path = Path::new("/c");
    assert!(check_access(path, 0o100600, 500, 500).is_ok());
    let error = check_access(path, 0o100600, 0, 500).unwrap_err();
    assert_eq!(error.to_string(), "/c: owned by user 0, expected user 500");
}

#[test]
fn a_directory_or_a_missing_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Cert::load(dir.path()), Err(CertError::Format { .. })));
    assert!(matches!(Cert::load(&dir.path().join("x")), Err(CertError::Io { .. })));
}

#[test]
fn a_swapped_public_key_is_refused() {
    let other = Cert::generate().unwrap().public().to_string();
    let cert = sample();
    let text = cert.to_text().replace(&cert.public().to_string(), &other);
    let error = Cert::parse(Path::new("c"), &text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c: public key does not belong to the secret key: make a new certificate with flux keygen"
    );
}

#[test]
fn a_missing_key_is_named() {
    let error = Cert::parse(Path::new("c"), "curve\n    public-key = \"x\"\n").unwrap_err();
    assert_eq!(error.to_string(), "c: section curve has no secret-key");
}

#[test]
fn metadata_that_cannot_be_written_is_refused() {
    let mut cert = sample();
    for (name, value) in [("", "v"), ("a b", "v"), ("a", "x\ny"), ("a", "'\"")] {
        assert!(cert.set_metadata(name, value).is_err(), "{name:?} {value:?}");
    }
}

#[test]
fn time_is_shown_in_utc() {
    assert_eq!(utc_text(0), "1970-01-01T00:00:00Z");
    assert_eq!(utc_text(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(utc_text(1_709_251_199), "2024-02-29T23:59:59Z");
    assert_eq!(utc_text(1_798_761_599), "2026-12-31T23:59:59Z");
}
