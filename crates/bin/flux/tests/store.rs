//! The store of an instance with a state directory: collected, copied, dumped, damaged, mended.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::process::Command;

/// Runs a shell script, with the program first in the path, in a directory of its own; what it
/// says, errors in their place.
fn shell(directory: &Path, script: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_flux"));
    let beside = program.parent().unwrap().display().to_string();
    let path = format!("{beside}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(directory)
        .env("PATH", path)
        .env("TZ", "UTC")
        .env_remove("FLUX_URI")
        .env_remove("FLUX_KVS_NAMESPACE")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn check(script: &str, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let text = shell(directory.path(), &format!("mkdir state\n{script}"));
    let text = text.replace(&directory.path().display().to_string(), "TOP");
    assert_eq!(text, expected, "{script}");
}

const START: &str = "flux start -Sstatedir=$PWD/state";

#[test]
fn a_dump_is_restored_below_a_key_and_as_the_whole() {
    check(
        &format!(
            "{START} sh -c 'flux kvs put a.b=1 long=$(seq -s, 1 500); flux kvs link a.b l
                 flux kvs mkdir empty; flux dump x.tgz 2>&1 | sed \"s/[67] keys/6 keys/\"
                 tar tf x.tgz | grep -v resource | grep -v checkpoint | sort
                 flux kvs put a.b=2; flux restore -q --key=old x.tgz; flux kvs get old.a.b a.b
                 flux kvs get old.long | cut -c-9
                 flux restore --checkpoint x.tgz; true'
             mkdir other; flux restore -q --statedir=other x.tgz; flux dump --statedir=other - |
                 tar xOf - a/b
             echo; flux start -Sstatedir=$PWD/other sh -c 'flux kvs get l
                 flux kvs ls -1 | grep -v checkpoint' 2>/dev/null"
        ),
        "flux-dump: 6 keys, 0 left out\na/b\nadmin/eventlog\nempty\nl\nlong\n1\n2\n1,2,3,4,5\n\
         flux-restore: --checkpoint would be overwritten by the running instance: stop it, then \
         use --statedir=DIR\n1\n1\na\nadmin\nempty\nl\nlong\nresource\n",
    );
}

#[test]
fn damage_is_said_at_the_start_and_mended() {
    check(
        &format!(
            "{START} sh -c 'flux kvs put a=1 b=$(seq -s, 1 3000)
                 flux fsck | sed \"s/[0-9]* keys/N keys/\"
                 flux fsck --repair || echo no'
             flux fsck --statedir=state | sed 's/[0-9]* blobs, [0-9]* keys/N/'
             cp state/content.sqlite whole
             truncate -s -8192 state/content.sqlite
             {START} true 2>&1 | sed 's/has [0-9]* of [0-9]*/has N of N/'; echo 1
             flux fsck -q --statedir=state; echo $?
             cp whole state/content.sqlite
             offset=$(grep -abo '1,2,3,4,5,6,7,8,9,10' state/content.sqlite | head -1 | cut -d: -f1)
             printf X | dd of=state/content.sqlite bs=1 seek=$((offset + 4)) conv=notrunc 2>/dev/null
             flux fsck --statedir=state | sed 's/row [0-9]*/row N/; s/^[0-9]* blobs/N blobs/'
             flux fsck -q --repair --statedir=state; echo $?
             {START} sh -c 'flux kvs get a; flux kvs get b || true'; ls state | grep content | grep -v -e wal -e promised"
        ),
        "N keys, 0 problems\n\
         flux-fsck: --repair: stop the instance, then run flux fsck --repair --statedir=TOP/state\n\
         no\nN, 0 problems\n\
         flux-broker: TOP/state/content.sqlite: damaged: truncated: has N of N bytes: stop the \
         instance and run flux fsck --repair --statedir=TOP/state\n1\n1\n\
         row N: its content does not match its digest\n\
         the keys were not checked: run again with --repair\nN blobs, 0 keys, 2 problems\n\
         0\n1\nflux-kvs: b: No such file or directory\n\
         content.sqlite\ncontent.sqlite.damaged0\n",
    );
}

#[test]
fn a_bad_page_in_the_log_of_a_killed_instance_is_said_and_nothing_is_lost() {
    check(
        &format!(
            "{START} sh -c 'for n in 1 2 3 4 5 6 7 8; do flux kvs put a$n=$(seq -s, $n 900); done
                 kill -9 $(flux getattr broker.pid)' 2>/dev/null
             log=state/content.sqlite-wal
             byte=$(dd if=$log bs=1 skip=4000 count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
             printf $(printf '\\\\%o' $(((byte + 1) % 256))) | dd of=$log bs=1 seek=4000 conv=notrunc 2>/dev/null
             {START} true 2>&1 | sed 's/with [0-9]*/with N/'
             flux fsck --statedir=state | sed 's/with [0-9]*/with N/; s/^[0-9]* blobs/N blobs/'
             flux fsck -q --repair --statedir=state
             {START} sh -c 'for n in 1 2 3 4 5 6 7 8; do flux kvs get a$n | cut -c-5; done' 2>/dev/null
             flux fsck -q --statedir=state; echo $?"
        ),
        "flux-broker: TOP/state/content.sqlite: damaged: page 1 of its log is bad, with N transactions \
         behind it: stop the instance and run flux fsck --repair --statedir=TOP/state\n\
         state/content.sqlite: page 1 of its log is bad, with N transactions behind it\n\
         N blobs, 0 keys, 1 problems\n\
         1,2,3\n2,3,4\n3,4,5\n4,5,6\n5,6,7\n6,7,8\n7,8,9\n8,9,1\n0\n",
    );
}

#[test]
fn an_instance_of_the_release_before_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    let golden = "../../host/store/src/fsck/golden/format2.sqlite";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(golden);
    std::fs::copy(golden, directory.path().join("state/content.sqlite")).unwrap();
    let script = format!(
        "{START} sh -c 'flux kvs get a.b last; flux kvs put a.b=2' 2>/dev/null
         {START} sh -c 'flux kvs get a.b; flux kvs get long | cut -c-5' 2>/dev/null
         flux fsck -q --statedir=state; echo $?"
    );
    assert_eq!(shell(directory.path(), &script), "1\n3\n2\n1,2,3\n0\n");
}

#[test]
fn the_store_is_collected_copied_and_moved_while_it_is_in_use() {
    check(
        &format!(
            "{START} --conf=content.gc-grace=0s sh -c '
                 for n in 1 2 3 4 5; do flux kvs put a=$(seq -s, $n 9000); done
                 flux gc -q; flux gc | sed \"s/[0-9][0-9]*/N/g\"
                 flux content backup copy.sqlite | sed \"s/[0-9][0-9]*/N/g\"
                 flux content backup copy.sqlite
                 flux content relocate moved.sqlite | sed \"s/[0-9][0-9]*/N/g\"
                 flux kvs put b=after; flux content status'
             readlink state/content.sqlite
             {START} sh -c 'flux kvs get b; flux kvs get a | cut -c-9'
             mkdir other; cp copy.sqlite other/content.sqlite
             flux start -Sstatedir=$PWD/other sh -c 'flux kvs get a | cut -c-9' 2>/dev/null
             rm moved.sqlite; {START} true"
        ),
        "N blobs deleted, N kept; the file has N bytes, had N\n\
         copy.sqlite: N blobs, N bytes\n\
         flux-content: backup: TOP/copy.sqlite: is there already: choose a new name\n\
         moved.sqlite: N blobs, N bytes\nok\nTOP/moved.sqlite\nafter\n5,6,7,8,9\n5,6,7,8,9\n\
         flux-broker: TOP/state/content.sqlite: was moved to TOP/moved.sqlite, where nothing is: \
         mount that file system, or restore a backup there\n",
    );
}

#[test]
fn a_full_disk_refuses_new_work_while_what_runs_goes_on_and_passes_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let inside = "
        flux submit --quiet true; flux queue drain
        long=$(flux submit sh -c 'for i in $(seq 1 20); do echo $i; sleep 0.1; done')
        short=$(flux submit sh -c 'echo done; exit 3')
        flux job wait-event -q $short start; flux job wait-event -q $long start
        dd if=/dev/zero of=state/filler bs=64k count=60 2>/dev/null
        dd if=/dev/zero of=state/filler2 bs=1k count=100 2>/dev/null
        flux submit true; echo $?
        flux kvs put a=$(seq -s, 1 2000); echo $?
        flux content status; flux queue status; flux resource status >table; grep -c avail table
        sleep 1; rm state/filler
        until flux submit --quiet true 2>/dev/null; do sleep 0.1; done
        until flux content status | grep -q ok; do sleep 0.1; done
        flux job attach $long | tail -1; flux job attach $long | wc -l
        flux job attach $short; echo $?; flux queue drain
        flux jobs -a --no-header -o '{status}' | sort; flux fsck | sed 's/[0-9]* keys/N keys/'";
    std::fs::write(directory.path().join("inside.sh"), format!("exec 2>&1\n{inside}")).unwrap();
    let script = "unshare -rm true 2>/dev/null || { echo skipped; exit; }
         mkdir state; unshare -rm sh -c 'mount -t tmpfs -o size=3m,mode=755 tmpfs state &&
             flux start -Slog-stderr-level=0 -Sstatedir=$PWD/state sh inside.sh'";
    let text = shell(directory.path(), script);
    if text == "skipped\n" {
        // No namespaces for users on this machine.
        return;
    }
    let text = text.replace(&directory.path().display().to_string(), "TOP");
    // A commit that comes before a try has found space is refused without being tried.
    let text = text.replace("was refused: TOP", "could not be stored and was undone: TOP");
    let full = "TOP/state/content.sqlite: no space left on device: free some space, then go on";
    let expected = format!(
        "[Errno 22] job submission is disabled: cannot store job events: kvs: the transaction \
         could not be stored and was undone: {full}\n1\n\
         flux-kvs: flux_kvs_commit: kvs: the transaction could not be stored and was undone: \
         {full}\n1\nfull  {full}\nJob submission is enabled\nScheduling is started\n\
         Storage is full, new jobs are refused: {full}\n\
         Storage is full, new jobs are refused: {full}\n1\n20\n20\ndone\n\
         flux-job: task(s) exited with exit code 3\n3\n\
         COMPLETED\nCOMPLETED\nCOMPLETED\nFAILED\nN keys, 0 problems\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn a_dump_at_the_end_is_restored_at_the_start() {
    check(
        "flux start -Scontent.dump=$PWD/end.tgz flux kvs put a.b=7
         flux start -Scontent.restore=$PWD/end.tgz flux kvs get a.b
         flux start -Scontent.restore=$PWD/none.tgz true
         flux start -Sstatedir=$PWD/state -Scontent.dump=auto flux kvs put c=8
         ls state/dump | sed 's/[0-9]/N/g'; rm state/content.sqlite*
         flux start -Sstatedir=$PWD/state -Scontent.restore=auto flux kvs get c
         ls state/dump | sed 's/[0-9]/N/g'
         flux start sh -c 'flux kvs put d=9; flux shutdown --background --dump=$PWD/now.tar
             sleep 60' 2>/dev/null
         tar xOf now.tar d",
        "7\nflux-broker: content.restore: TOP/none.tgz: No such file or directory\n\
         NNNNNNNN_NNNNNN.tgz\nRESTORE\n8\nNNNNNNNN_NNNNNN.tgz\n9",
    );
}

/// The way down across a change of the format: what a dump holds has none.
#[test]
fn history_and_queue_go_through_a_dump_into_a_new_state_directory() {
    let list =
        "flux jobs -a --no-header -o '{id.dec} {name} {status_abbrev} {urgency} {t_submit}' |
            sort -n";
    let before = "flux run true; flux run seq 1 400 >/dev/null; flux run false 2>/dev/null
        flux queue stop >/dev/null; flux submit --quiet --urgency=20 sleep 0
        flux submit --quiet echo later; flux submit --quiet --urgency=hold echo never
        flux kvs put mine=1; sh list.sh >before";
    let after = "sh list.sh >after; cut -d' ' -f2-4 after
        flux kvs get mine; flux queue status
        flux job attach $(grep ' seq ' after | cut -d' ' -f1) | tail -n 1
        flux queue start >/dev/null
        flux job attach $(grep ' echo .* 16 ' after | cut -d' ' -f1)
        next=$(flux job id --to=dec $(flux submit true))
        test $next -gt $(tail -n 1 after | cut -d' ' -f1); echo newer: $?
        flux cancel $(grep ' 0 ' after | cut -d' ' -f1); flux queue drain";
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("list.sh", list), ("before.sh", before), ("after.sh", after)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let script = format!(
        "mkdir state new; {START} sh before.sh; flux dump -q --statedir=state all.tgz
         printf '\\0\\0\\0\\143' | dd of=state/content.sqlite bs=1 seek=60 conv=notrunc 2>/dev/null
         {START} true; echo $?
         flux restore -q --statedir=new all.tgz; flux start -Sstatedir=$PWD/new sh after.sh
         cmp before after && echo the same"
    );
    let text = shell(directory.path(), &script);
    let text = text.replace(&directory.path().display().to_string(), "TOP");
    assert_eq!(
        text,
        "flux-broker: TOP/state/content.sqlite: format 99 is newer than this release knows (3): \
         start the release that wrote it, or take its flux dump into a new state directory\n1\n\
         true CD 16\nseq CD 16\nfalse F 16\nsleep S 20\necho S 16\necho S 0\n\
         1\nJob submission is enabled\nScheduling is stopped\n400\nlater\nnewer: 0\nthe same\n"
    );
}

#[test]
fn what_was_collected_since_it_was_read_is_not_put() {
    check(
        &format!(
            "{START} sh -c '
             flux kvs put a.b=$(seq -s, 1 500)
             object=$(flux kvs get --treeobj a); value=$(flux kvs get --treeobj a.b)
             flux kvs unlink -R a; flux gc -q
             for put in \"late=$object\" \"late.b=$value\"; do
                 flux kvs put --treeobj \"$put\" 2>&1 | sed \"s/sha1-[0-9a-f]*/NAME/\"; done
             flux kvs get late; flux kvs get late.b
             flux kvs put --treeobj all=\"$(flux kvs getroot)\"; flux kvs ls -1 all | head -1
             flux fsck | sed \"s/[0-9]* keys/N keys/\"'"
        ),
        "flux-kvs: flux_kvs_commit: kvs: 'late' cannot be stored: blob NAME is not in the store, or \
         was collected since it was read\n\
         flux-kvs: flux_kvs_commit: kvs: 'late.b' cannot be stored: blob NAME is not in the store, \
         or was collected since it was read\n\
         flux-kvs: late: No such file or directory\n\
         flux-kvs: late.b: No such file or directory\nadmin\nN keys, 0 problems\n",
    );
}
