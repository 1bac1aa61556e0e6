//! What an administrator sees of resources and queues: tables in the form of today and of 2022,
//! types beside cores and gpus, and large inventories.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

/// What a script prints in an instance with this configuration, errors in their place.
fn run(size: u32, options: &[&str], config: &str, script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, config).unwrap();
    let config = path.to_str().unwrap();
    let options = [&["-c", config], options].concat();
    let script = format!("exec 2>&1\nD={}\n{script}", directory.path().display());
    instance::stdout(&instance::instance(size, &options, &script))
}

const NODES: &str = "[ingest.validator]\nargs = [\"--require-version=any\"]\n[resource]\nnoverify = true\n[[resource.config]]\nhosts = \"n[0-3]\"\n\
                     cores = \"0-3\"\n";

#[test]
fn tables_of_2022_are_a_format_away() {
    let text = run(
        4,
        &["--test-hosts=n[0-3]"],
        NODES,
        "flux resource drain n1 node is fubar
         flux resource status -o classic
         flux resource status -o classic --states=offline,exclude
         flux resource status -s all -no '{nodelist}'
         export FLUX_RESOURCE_STATUS_FORMAT_DEFAULT=classic FLUX_RESOURCE_DRAIN_FORMAT_DEFAULT=classic
         flux resource status -s drain -n
         flux resource drain | sed 's/....-..-..T..:..:../TIME               /'
         flux resource undrain n1
         flux resource drain
         FLUX_RESOURCE_LIST_FORMAT_DEFAULT='{state} {nnodes}' flux resource list -n
         FLUX_JOBS_FORMAT_DEFAULT='{id}' flux jobs
         FLUX_QUEUE_LIST_FORMAT_DEFAULT='{enabled.ascii}' flux queue list",
    );
    assert_eq!(
        text,
        "    STATUS NNODES RANKS           NODELIST
     avail      3 0,2-3           n[0,2-3]
     drain      1 1               n1
    STATUS NNODES RANKS           NODELIST
   offline      0
   exclude      0
n[0-3]
     drain      1 1               n1
TIMESTAMP            RANK     REASON                         NODELIST
TIME                 1        node is fubar                  n1
TIMESTAMP            RANK     REASON                         NODELIST
free 4
allocated 0
down 0
JOBID
EN
y
"
    );
}

#[test]
fn types_beside_cores_and_gpus_are_listed_and_given_to_jobs() {
    let config = format!("{NODES}types = {{ ssd = \"0-1\", memory = \"0-63\" }}\n");
    let text = run(
        4,
        &["--test-hosts=n[0-3]"],
        &config,
        "flux resource list -s all
         flux resource info
         id=$(flux submit --resources-shape='slot=2/[core=1;ssd=1;memory=8]' sleep inf)
         flux job wait-event -q $id start
         flux resource list -o '{state} {ncores} {types} {rlist}'
         flux submit --quiet -N4 --resources-shape='node=4{x}/slot=1/core=1' true 2>/dev/null
         flux cancel $id
         flux run --resources-shape='slot=2/[core=1;gpu=1]' true | sed 's/.*severity=0 //'
         flux run --resources-shape='slot=9/[core=1;ssd=1]' true 2>&1 | sed 's/.*severity=0 //'
         flux run --resources-shape='slot=1/[core=1;fpga=1]' true 2>&1 | sed 's/.*severity=0 //'
         flux alloc --resources-shape='slot=1/[core=2;ssd=2]' \
             --conf=ingest.validator.args='[\"--require-version=any\"]' sh -c '
             flux resource list -s all -no \"{ncores} {types}\"
             flux run --resources-shape=\"slot=1/[core=1;ssd=2]\" echo within' 2>&1",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "     STATE NNODES NCORES NGPUS MEMORY   SSD NODELIST",
            "       all      4     16     0   256     8 n[0-3]",
            "4 Nodes, 16 Cores, 0 GPUs, 256 memory, 8 ssd",
            "STATE NCORES TYPES LIST",
            "free 14 memory:240,ssd:6 rank0/core[2-3],memory[16-63] \
             rank[1-3]/core[0-3],memory[0-63],ssd[0-1]",
            "allocated 2 memory:16,ssd:2 rank0/core[0-1],memory[0-15],ssd[0-1]",
        ],
        "{text}"
    );
    let end = lines[lines.len() - 4..].join("\n");
    assert_eq!(
        end,
        "unsatisfiable request: need 9 slot(s) with 1 'ssd' each, only 8 available (total 'ssd': 8)\n\
         unsatisfiable request: there is no resource of type 'fpga'\n\
         2 ssd:2\nwithin",
        "{text}"
    );
}

#[test]
fn the_graph_of_r_is_counted_at_nodes() {
    let config = "[ingest.validator]\nargs = [\"--require-version=any\"]\n[resource]\n\
                  noverify = true\npath = \"R\"\n";
    let directory = tempfile::tempdir().unwrap();
    let r = directory.path().join("R");
    let script = format!(
        "flux R encode -Hn[0-1] -c0-1 -t ssd=0 -t memory=0-31 | flux ion-R encode |
             sed 's/, \"memory\": \"0-31\", \"ssd\": \"0\"//' >{}",
        r.display()
    );
    assert!(instance::flux().args(["env", "sh", "-c", &script]).status().unwrap().success());
    let text = run(
        2,
        &["--test-hosts=n[0-1]"],
        &config.replace("\"R\"", &format!("\"{}\"", r.display())),
        "flux R decode --short <$(flux config get --type=string resource.path)
         flux resource list -s all -no '{types}'
         flux run --resources-shape='slot=2/[core=1;ssd=1]' hostname | wc -l",
    );
    assert_eq!(text, "rank[0-1]/core[0-1]\nmemory:64,ssd:2\n2\n");
}

#[test]
fn nodes_in_housekeeping_are_told_apart() {
    let config = format!("{NODES}[job-manager.housekeeping]\ncommand = [\"sleep\", \"1000\"]\n");
    let text = run(
        4,
        &["--test-hosts=n[0-3]"],
        &config,
        "id=$(flux submit -N2 true)
         flux job wait-event -q $id clean
         until flux housekeeping list -n | grep -q .; do sleep 0.1; done
         flux resource status -no '{state} {nodelist}' -s avail,housekeeping,allocated
         flux resource drain n0 later
         flux resource status -no '{state} {nodelist}'
         flux housekeeping kill --all",
    );
    let lines: Vec<&str> = text.lines().take(6).collect();
    assert_eq!(
        lines,
        [
            "avail n[0-3]",
            "allocated",
            "housekeeping n[0-1]",
            "avail n[1-3]",
            "draining n0",
            "housekeeping n[0-1]"
        ]
    );
}

#[test]
fn queues_show_their_nodes_and_count_their_jobs() {
    let config = "[queues.batch]\nrequires = [\"batch\"]\n[queues.debug]\nrequires = [\"debug\"]\n\
        [policy.limits]\njob-size.max.nnodes = 1\n[resource]\nnoverify = true\n\
        [[resource.config]]\nhosts = \"n[0-2]\"\ncores = \"0-3\"\n\
        [[resource.config]]\nhosts = \"n[0-1]\"\nproperties = [\"batch\"]\n\
        [[resource.config]]\nhosts = \"n2\"\nproperties = [\"debug\"]\n";
    let text = run(
        3,
        &["--test-hosts=n[0-2]"],
        config,
        "flux resource drain n1 bad
         flux queue list -o nodes
         flux queue list -no '{queue} {limits.range.effective.nnodes} {limits.range.effective.ncores}'
         flux queue start --all --quiet
         flux submit --quiet --wait -q debug true; flux submit --quiet -q batch --urgency=hold true
         flux jobs --stats-only -q debug || flux jobs --stats-only -q batch,debug",
    );
    assert_eq!(
        text,
        "QUEUE    EN ST  NODES     UP   DOWN   USED   FREE
batch     ✔  ✗      2      1      1      0      1
debug     ✔  ✗      1      1      0      0      1
batch 0-1 0-8
debug 0-1 0-4
0 running, 1 completed, 0 failed, 0 pending, 0 inactive purged
0 running, 1 completed, 0 failed, 1 pending, 0 inactive purged
"
    );
}

#[test]
fn sixteen_thousand_nodes_are_shown_in_a_moment() {
    let config = "[fake-resources]\nnnodes = 16384\ncores-per-node = 64\ngpus-per-node = 4\n\
                  host-prefix = \"c\"\n";
    let text = run(
        1,
        &[],
        config,
        "flux resource list -n
         flux resource drain c77,c[1000-2000] many
         flux resource drain c[3000-3099]:gpu0 hot
         flux resource status -no '{state} {nnodes} {nodelist}'
         flux resource drain -no '{nnodes} {reason}'
         flux resource undrain c[1500-1599]
         id=$(flux submit -N15000 --setattr=exec.test.run_duration=100s true)
         flux job wait-event -q $id alloc
         flux resource list -no '{state} {nnodes} {ncores} {ngpus}'
         flux cancel --quiet $id
         flux queue drain",
    );
    assert_eq!(
        text,
        "      free  16384 1048576 65536 c[0-16383]
 allocated      0       0     0 
      down      0       0     0 
avail 15382 c[0-76,78-999,2001-16383]
drained 1002 c[77,1000-2000]
partial 100 c[3000-3099]:gpu0
1002 many
100 hot
free 482 30848 1828
allocated 15000 960000 60000
down 1002 57728 3708
"
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let text = run(
        1,
        &[],
        "",
        "flux overlay status --wait=lost --timeout=0.1s
         printf '# a comment\\n61 * * * * true\\n' | flux cron tab
         flux jobs --since=tomorrow
         flux resource list -o '{types.}'
         flux R encode -t core=1; flux R encode -t ssd
         flux R encode -c0 -t ssd=0-3 | flux R decode -c ssd",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "flux-overlay: timeout waiting for rank 0 to be lost");
    assert!(lines[1].starts_with("flux-cron: -:2: 61 * * * * true: "), "{text}");
    assert_eq!(lines[2], "flux-jobs: ERROR: --since: \"tomorrow\" is no time in the past");
    assert!(lines[3].ends_with("Unknown format field: types."), "{text}");
    assert!(lines[4].starts_with("flux-R: --type=core=1: 'core': not a name for a type"), "{text}");
    assert_eq!(lines[5..], ["flux-R: --type=ssd: expected TYPE=IDSET", "4"]);
}
