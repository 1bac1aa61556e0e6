//! MUNGE here, and the privileged launcher.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flux_privilege::config::Config;
use flux_sign::munge::Munge;
use flux_sign::trust::Trust;

use super::Site;
use super::finding::Report;

/// A credential is made and understood here.
pub(crate) fn munge(site: &Site, report: &mut Report) {
    const NAME: &str = "munge";
    let works = Munge::open(None).and_then(|munge| {
        let credential = munge.encode(b"flux doctor")?;
        munge.decode(&credential)
    });
    match works {
        Ok(found) => report.ok(NAME, format!("a credential of uid {} is understood", found.uid)),
        Err(error) if site.text("exec.imp").is_some() || site.config.is_empty() => {
            let advice = "install munge, give all nodes the same key, systemctl enable --now munge";
            report.fail(NAME, error.to_string(), advice);
        }
        Err(error) => {
            report.warn(NAME, error.to_string(), "without it only the owner can run jobs");
        }
    }
}

/// The launcher is what it must be, and its configuration can be trusted.
pub(crate) fn imp(site: &Site, report: &mut Report) {
    const NAME: &str = "imp";
    let Some(path) = site.text("exec.imp") else {
        if site.get("access.allow-guest-user").is_some_and(|value| value.as_bool() == Some(true)) {
            let text = "guests may connect, but exec.imp is not set: they cannot run jobs";
            report.warn(NAME, text, "set exec.imp = \"/usr/libexec/flux/flux-imp\"");
        }
        return;
    };
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return report.fail(NAME, format!("{path}: {error}"), "install the package"),
    };
    if found.uid() != 0 || found.mode() & 0o4000 == 0 || found.mode() & 0o022 != 0 {
        let text = format!("{path}: owner {}, mode {:o}", found.uid(), found.mode() & 0o7777);
        let advice = format!("chown root {path} && chmod 4755 {path}");
        return report.fail(NAME, text, &advice);
    }
    let nosuid = nix::sys::statvfs::statvfs(Path::new(path))
        .is_ok_and(|disk| disk.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    if nosuid {
        let text = format!("{path} lies on a file system that is mounted nosuid");
        return report.fail(NAME, text, "mount it without nosuid, or install elsewhere");
    }
    match Config::read("/etc/flux/imp/conf.d/*.toml", Trust::ROOT) {
        Err(error) => {
            report.fail(NAME, error.to_string(), "write imp.toml of the guide, owned by root, 644");
        }
        Ok(config) => match config.exec {
            None => {
                let text = "the imp has no table [exec]: it starts no jobs";
                report.fail(NAME, text, "write imp.toml of the guide");
            }
            Some(exec) if !exec.allowed_users.contains(&site.user) => {
                let text = format!("exec.allowed-users of the imp does not have {}", site.user);
                report.fail(NAME, text, "add the owner to exec.allowed-users in imp.toml");
            }
            Some(_) => report.ok(NAME, format!("{path} is setuid root and configured")),
        },
    }
    match flux_sign::config::SignConfig::of_user() {
        Ok(_) => report.ok("signing", "sign.toml can be used"),
        Err(error) => {
            let advice = "write /etc/flux/security/conf.d/sign.toml of the guide";
            report.fail("signing", error.to_string(), advice);
        }
    }
}
