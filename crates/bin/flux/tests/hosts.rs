//! Hosts that are added to a running instance, and taken away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;

use nodes::Nodes;

/// A job of two tasks on two hosts, which ends when told.
fn start_job(nodes: &Nodes, hosts: &str) -> String {
    let (there, flag) = (nodes.path("there"), nodes.path("flag"));
    let script = format!(
        "echo $$ >> {}; while ! test -e {}; do sleep 0.1; done; echo done",
        there.display(),
        flag.display()
    );
    let requires = format!("--requires=hosts:{hosts}");
    let words = ["submit", "-N", "2", "-n", "2", &requires, "sh", "-c", &script];
    let job = nodes.text(0, &words).trim().to_string();
    nodes.wait("tasks", |nodes| {
        fs::read_to_string(nodes.path("there")).unwrap_or_default().lines().count() == 2
    });
    job
}

/// It was never disturbed, and ends well.
fn end_job(nodes: &Nodes, job: &str) {
    assert_eq!(nodes.text(0, &["jobs", "-no", "{state}", job]).trim(), "RUN");
    fs::write(nodes.path("flag"), "").unwrap();
    let output = nodes.text(0, &["job", "attach", job]);
    assert_eq!(output.lines().filter(|line| *line == "done").count(), 2, "{output}");
    assert_eq!(fs::read_to_string(nodes.path("there")).unwrap().lines().count(), 2);
}

#[test]
fn hosts_are_added_while_jobs_run_and_no_broker_is_restarted() {
    for tcp in [false, true] {
        let mut nodes = Nodes::start(4, tcp, "");
        let job = start_job(&nodes, "n[2-3]");
        let pids: Vec<i32> = (0..4).map(|rank| nodes.pid(rank)).collect();
        // Below rank 1, which has a child, and below rank 2, which has none.
        nodes.name("n4");
        nodes.name("n5");
        nodes.write_config();
        nodes.text(0, &["config", "reload"]);
        assert_eq!(nodes.text(0, &["getattr", "size"]).trim(), "6");
        nodes.wait("news", |nodes| nodes.text(3, &["getattr", "hostlist"]).trim() == "n[0-5]");
        nodes.boot(4);
        nodes.boot(5);
        nodes.wait_for_all();
        let free = ["resource", "list", "-n", "-s", "all", "-o", "{nodelist}"];
        nodes.wait("resources", |nodes| nodes.text(0, &free).trim() == "n[0-5]");
        nodes.use_all();
        let shape = nodes.text(0, &["overlay", "parentof", "5"]);
        assert_eq!(shape.trim(), "2");
        let now: Vec<i32> = (0..4).map(|rank| nodes.pid(rank)).collect();
        assert_eq!(pids, now);
        for child in nodes.brokers.iter_mut().flatten() {
            assert!(child.try_wait().unwrap().is_none(), "a broker has ended");
        }
        // The leader knows of them when it comes back, too.
        nodes.kill(0);
        nodes.boot(0);
        nodes.wait_for_all();
        nodes.use_all();
        end_job(&nodes, &job);
    }
}

#[test]
fn an_instance_of_one_host_grows_and_its_job_goes_on() {
    let mut nodes = Nodes::start(1, true, "");
    let file = nodes.path("R");
    let write_r = |nodes: &Nodes, hosts: &str| {
        let r = nodes.text(0, &["R", "encode", "--hosts", hosts, "--cores=0-1"]);
        fs::write(&file, r).unwrap();
    };
    write_r(&nodes, "n0");
    nodes.head =
        format!("[resource]\npath = \"{}\"\nnoverify = true\n{}", file.display(), nodes.head);
    nodes.write_config();
    nodes.text(0, &["config", "reload"]);
    let job = nodes.text(0, &["submit", "-n1", "sleep", "1000"]).trim().to_string();
    nodes.text(0, &["job", "wait-event", &job, "start"]);
    let pid = nodes.pid(0);
    nodes.name("n1");
    nodes.name("n2");
    nodes.write_config();
    write_r(&nodes, "n[0-2]");
    nodes.text(0, &["config", "reload"]);
    assert_eq!(nodes.text(0, &["getattr", "size"]).trim(), "3");
    nodes.boot(1);
    nodes.boot(2);
    nodes.wait_for_all();
    assert_eq!(nodes.text(2, &["run", "-N3", "-n3", "hostname"]).lines().count(), 3);
    assert_eq!(nodes.text(0, &["jobs", "-no", "{state}", &job]).trim(), "RUN");
    assert_eq!(nodes.pid(0), pid);
    nodes.text(0, &["cancel", &job]);
}

#[test]
fn a_host_goes_when_its_broker_is_down_and_no_rank_becomes_another_host() {
    let mut nodes = Nodes::start(5, false, "");
    let file = nodes.path("R");
    let write_r = |nodes: &Nodes, hosts: &str| {
        let r = nodes.text(0, &["R", "encode", "--hosts", hosts, "--cores=0"]);
        fs::write(&file, r).unwrap();
    };
    write_r(&nodes, "n[0-4]");
    nodes.head =
        format!("[resource]\npath = \"{}\"\nnoverify = true\n{}", file.display(), nodes.head);
    nodes.write_config();
    nodes.text(0, &["config", "reload"]);
    let all = ["resource", "list", "-n", "-s", "all", "-o", "{nodelist} {ncores}"];
    nodes.wait("configured R", |nodes| nodes.text(0, &all).trim() == "n[0-4] 5");
    let job = start_job(&nodes, "n[0-1]");
    let refused = |nodes: &Nodes, why: &str| {
        let output = nodes.run(0, &["config", "reload"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{output:?}");
    };
    let kept = nodes.hosts.clone();
    // One in the middle that is left out would move those behind it.
    nodes.hosts.remove(2);
    nodes.write_config();
    write_r(&nodes, "n[0-1,3-4]");
    refused(&nodes, "rank 2 is n2 and would become n3");
    // Its broker runs.
    nodes.hosts = kept[..4].to_vec();
    nodes.write_config();
    write_r(&nodes, "n[0-3]");
    refused(&nodes, "n4 (rank 4) is online");
    // Drained and stopped it may go, with its resources.
    nodes.text(0, &["resource", "drain", "n4", "going"]);
    nodes.kill(4);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n4");
    write_r(&nodes, "n[0-3]");
    nodes.text(0, &["config", "reload"]);
    nodes.brokers.pop();
    nodes.wait("less", |nodes| nodes.text(0, &all).trim() == "n[0-3] 4");
    nodes.wait_for_all();
    // One in the middle keeps its place, empty.
    nodes.text(0, &["resource", "drain", "n2", "going"]);
    nodes.kill(2);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n2");
    nodes.hosts[2] += "removed = true\n";
    nodes.write_config();
    write_r(&nodes, "n[0-1,3]");
    nodes.text(0, &["config", "reload"]);
    nodes.wait("less", |nodes| nodes.text(0, &all).trim() == "n[0-1,3] 3");
    nodes.text(0, &["overlay", "status", "--summary", "--wait=full"]);
    let tree = nodes.text(0, &["overlay", "status", "--no-pretty"]);
    assert!(!tree.contains("n2") && tree.contains("3 n3: full"), "{tree}");
    nodes.boot(2);
    assert_ne!(nodes.ended(2), 0, "its broker does not start any more");
    nodes.text(0, &["run", "-N", "1", "--requires=hosts:n3", "true"]);
    end_job(&nodes, &job);
}

#[test]
fn a_host_whose_key_is_not_listed_any_more_is_cut_off_at_the_reload() {
    let mut nodes = Nodes::start(3, true, "");
    // Brokers with keys of their own, which all are listed.
    let mut keys = Vec::new();
    for rank in 0..3 {
        let path = nodes.path(&format!("key{rank}"));
        nodes.text(0, &["keygen", &path.display().to_string()]);
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.contains("public-key")).unwrap();
        keys.push(line.split('"').nth(1).unwrap().to_string());
        nodes.hosts[rank] += &format!("key = '{}'\n", keys[rank]);
    }
    nodes.text(0, &["shutdown"]);
    for rank in 0..3 {
        nodes.ended(rank);
    }
    nodes.write_config();
    let common = nodes.path("key").display().to_string();
    for rank in 0..3 {
        let text = fs::read_to_string(nodes.path("flux.toml")).unwrap();
        let text = text.replace(&format!("\"{common}\""), &format!("\"{common}{rank}\""));
        fs::write(nodes.path(&format!("flux{rank}.toml")), text).unwrap();
    }
    for rank in 0..3 {
        nodes.boot(rank);
    }
    nodes.wait_for_all();
    nodes.use_all();
    // Another key in the place of that of n2.
    let own = nodes.path("flux0.toml");
    let text = fs::read_to_string(&own).unwrap().replace(&keys[2], &keys[1]);
    fs::write(&own, text).unwrap();
    nodes.text(0, &["config", "reload"]);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n2");
    assert_ne!(nodes.ended(2), 0);
    nodes.boot(2);
    nodes.wait("refusal", |nodes| {
        let log = fs::read_to_string(nodes.path("log2")).unwrap();
        log.contains("peer refused the key of this broker")
    });
    nodes.text(0, &["exec", "-r", "1", "true"]);
    let text = fs::read_to_string(&own).unwrap().replacen(&keys[1], "KEEP", 1);
    let text = text.replace(&keys[1], &keys[2]).replace("KEEP", &keys[1]);
    fs::write(&own, text).unwrap();
    nodes.text(0, &["config", "reload"]);
    nodes.wait_for_all();
    nodes.use_all();
}

#[test]
fn brokers_meet_by_ipv6_where_that_is_allowed() {
    if !fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().contains(" lo") {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    let address = || Some(format!("tcp://[::1]:{}", nodes::free_port()));
    let mut nodes = Nodes::start_at(vec![address(), address(), address()], vec![Vec::new(); 3], "");
    nodes.use_all();
    let parent = nodes.text(1, &["getattr", "tbon.parent-endpoint"]);
    assert!(parent.starts_with("tcp://[::1]:"), "{parent}");
    // Without that word such addresses are refused rather than used or left aside.
    nodes.head = nodes.head.replace("enable_ipv6 = true", "enable_ipv6 = false");
    nodes.write_config();
    nodes.kill(2);
    nodes.boot(2);
    nodes.wait("refusal", |nodes| {
        fs::read_to_string(nodes.path("log2")).unwrap_or_default().contains("set enable_ipv6")
    });
}

#[test]
fn a_file_of_resources_that_cannot_be_used_fails_the_reload_that_names_it() {
    let mut nodes = Nodes::start(2, false, "");
    let file = nodes.path("R");
    let good = nodes.text(0, &["R", "encode", "--hosts=n[0-1]", "--cores=0"]);
    fs::write(&file, &good).unwrap();
    let head = nodes.head.clone();
    let configure = |nodes: &mut Nodes, exclude: &str| {
        let path = file.display();
        nodes.head = format!("[resource]\npath = \"{path}\"\nnoverify = true\n{exclude}\n{head}");
        nodes.write_config();
    };
    configure(&mut nodes, "");
    nodes.text(0, &["config", "reload"]);
    let all = ["resource", "list", "-n", "-s", "all", "-o", "{nodelist} {ncores}"];
    nodes.wait("configured R", |nodes| nodes.text(0, &all).trim() == "n[0-1] 2");
    let wide = nodes.text(0, &["R", "encode", "--hosts=n[0-7]", "--cores=0"]);
    for (content, exclude, why) in [
        ("{ this is no JSON", "", "line 1"),
        ("{\"version\": 1}", "", "execution"),
        (wide.as_str(), "", "error reranking R"),
        (good.as_str(), "exclude = \"n7\"", "resource.exclude 'n7'"),
    ] {
        fs::write(&file, content).unwrap();
        configure(&mut nodes, exclude);
        let output = nodes.run(0, &["config", "reload"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let named = text.contains(&format!("resource.path: {}: ", file.display()));
        assert!(!output.status.success() && named && text.contains(why), "{why}: {output:?}");
        assert_eq!(nodes.text(0, &all).trim(), "n[0-1] 2");
        assert_eq!(
            nodes.text(0, &["config", "get", "--default=none", "resource.exclude"]).trim(),
            "none"
        );
    }
    fs::remove_file(&file).unwrap();
    configure(&mut nodes, "");
    let output = nodes.run(0, &["config", "reload"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
    // So does the other way to another inventory.
    fs::write(&file, "{}").unwrap();
    let path = file.display().to_string();
    nodes.text(0, &["module", "remove", "sched-simple"]);
    let output = nodes.run(0, &["resource", "reload", &path]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(&path), "{output:?}");
    // What all brokers say of R afterwards is the new one.
    let two = nodes.text(0, &["R", "encode", "--hosts=n[0-1]", "--cores=0-1"]);
    fs::write(&file, two).unwrap();
    nodes.text(0, &["resource", "reload", &path]);
    for rank in 0..2 {
        nodes.wait("the new R", |nodes| {
            let said = nodes.text(rank, &["resource", "R"]);
            said.contains("\"core\":\"0-1\"") || said.contains("\"core\": \"0-1\"")
        });
    }
}

#[test]
fn a_queue_runs_on_the_hosts_that_it_names() {
    let mut nodes = Nodes::start(3, false, "");
    let head = nodes.head.clone();
    let configure = |nodes: &mut Nodes, queues: &str| {
        nodes.head = format!("{queues}\n{head}");
        nodes.write_config();
    };
    let queues = "[queues.left]\nhosts = \"n[0-1]\"\n[queues.right]\nhosts = \"n2\"\n\
                  [queues.all]\nhosts = \"all\"\n[queues.night]\nparent = \"right\"\n";
    configure(&mut nodes, queues);
    nodes.text(0, &["config", "reload"]);
    nodes.text(0, &["queue", "start", "--all", "--quiet"]);
    let run = |nodes: &Nodes, queue: &str, count: &str| {
        let flux = nodes::program().to_str().unwrap();
        nodes.run(0, &["run", "-q", queue, "-N", count, flux, "getattr", "hostname"])
    };
    let said = |output: std::process::Output| {
        let mut lines: Vec<String> =
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect();
        lines.sort();
        assert!(output.status.success(), "{output:?}");
        lines.join(" ")
    };
    assert_eq!(said(run(&nodes, "left", "2")), "n0 n1");
    assert_eq!(said(run(&nodes, "right", "1")), "n2");
    assert_eq!(said(run(&nodes, "night", "1")), "n2");
    assert_eq!(said(run(&nodes, "all", "3")), "n0 n1 n2");
    let many = run(&nodes, "night", "2");
    assert!(String::from_utf8_lossy(&many.stderr).contains("unsatisfiable"), "{many:?}");
    let list = ["resource", "list", "-s", "all", "-n", "-q", "left", "-o", "{nodelist}"];
    assert_eq!(nodes.text(0, &list).trim(), "n[0-1]");
    // Live, and a host that there is not is refused.
    configure(&mut nodes, &queues.replace("n[0-1]", "n[1-2]"));
    nodes.text(0, &["config", "reload"]);
    nodes.wait("other hosts", |nodes| nodes.text(0, &list).trim() == "n[1-2]");
    assert_eq!(said(run(&nodes, "left", "2")), "n1 n2");
    configure(&mut nodes, &queues.replace("n[0-1]", "n[0-9]"));
    let output = nodes.run(0, &["config", "reload"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("there is no host n3"), "{output:?}");
}
