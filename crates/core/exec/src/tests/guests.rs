//! Jobs of users who do not own the instance.

use super::*;

const GUEST: u32 = 5001;

fn guests_rig() -> Rig<ExecService> {
    let mut settings = Settings::new(vec!["/usr/libexec/flux/flux-shell".into()]);
    settings.imp = Some("/usr/libexec/flux/flux-imp".into());
    met(Rig::new(ExecService::new(settings)))
}

fn start_of(rig: &mut Rig<ExecService>, userid: u32, system: Value) -> u32 {
    let jobspec = json!({"attributes": {"system": system}});
    let body = json!({"id": ID, "userid": userid, "jobspec": jobspec, "reattach": false, "R": r("0", "a")});
    rig.request("job-exec.start", body)
}

fn refused(rig: &mut Rig<ExecService>, tag: u32) -> String {
    let exception = rig.response(tag).unwrap();
    assert_eq!(exception["data"]["severity"], json!(0));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
    exception["data"]["note"].as_str().unwrap().to_string()
}

#[test]
fn without_an_imp_they_are_refused() {
    let mut rig = rig();
    let tag = start_of(&mut rig, GUEST, json!({}));
    assert!(refused(&mut rig, tag).contains("exec.imp is not configured"));
    rig.finish();
}

#[test]
fn they_cannot_pretend_to_run() {
    let mut rig = guests_rig();
    let tag = start_of(&mut rig, GUEST, json!({"exec": {"test": {"run_duration": "1h"}}}));
    assert!(refused(&mut rig, tag).contains("test execution"));
    rig.finish();
}

#[test]
fn they_are_launched_by_the_imp_and_killed_through_it() {
    let mut rig = guests_rig();
    let tag = start_of(&mut rig, GUEST, json!({}));
    let shell = launched(&mut rig, 1).remove(0);
    let body = shell.json::<Value>().unwrap();
    assert_eq!(
        body["cmdline"],
        json!([
            "/usr/libexec/flux/flux-imp",
            "exec",
            "/usr/libexec/flux/flux-shell",
            ID.to_string()
        ])
    );
    let helper = body["env"]["FLUX_IMP_EXEC_HELPER"].as_str().unwrap();
    assert!(helper.ends_with(&format!(" {ID}")), "{helper}");
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    rig.response(tag).unwrap();
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    end_recorded(&mut rig);
    let term = rig.expect("launch.kill");
    assert_eq!(term.json::<Value>().unwrap()["signum"], json!(15));
    rig.reply(&term, Value::Null);
    // SIGKILL cannot be passed on: SIGUSR1 stands for it.
    for _ in 0..5 {
        rig.advance(5_000_000);
        let tasks = rig.expect("job-manager.kill");
        assert_eq!(tasks.json::<Value>().unwrap()["signum"], json!(9));
        rig.reply(&tasks, Value::Null);
    }
    rig.advance(5_000_000);
    let kill = rig.expect("launch.kill");
    assert_eq!(kill.json::<Value>().unwrap()["signum"], json!(10));
}
