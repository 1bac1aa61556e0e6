use proptest::prelude::*;

use super::*;

const SAMPLE: &str = include_str!("../../fixtures/hwloc2.xml");

#[test]
fn cores_memory_and_gpus_of_hwloc_2_are_found() {
    let host = parse_xml(SAMPLE).unwrap();
    assert_eq!(host.hostname, "sierra&1");
    assert_eq!(host.core_cpus, ["0,2", "1,3"].map(|s| s.parse().unwrap()));
    assert_eq!(host.core_package, [0, 0]);
    assert_eq!(host.memory, 1 << 30);
    assert_eq!(host.numa.len(), 1);
    // One for CUDA and OpenCL on the same device; the OpenCL cpu device is none.
    let gpus: Vec<_> = host.gpus.iter().map(|g| (g.busid.as_str(), g.pci_id)).collect();
    assert_eq!(gpus, [("0000:01:00.0", (0x10de, 0x20b0)), ("0000:03:00.0", (0x1002, 0x740c))]);
}

#[test]
fn a_file_is_restricted_to_the_allowed_cpus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.xml");
    std::fs::write(&path, SAMPLE).unwrap();
    let discover = |allowed| XmlFile::new(&path, allowed).discover();
    assert_eq!(discover(Allowed::All).unwrap().cores(), 0..2);
    let some = discover(Allowed::Only("3".parse().unwrap())).unwrap();
    assert_eq!(some.core_cpus, ["3".parse().unwrap()]);
    let error = discover(Allowed::Only("9".parse().unwrap())).unwrap_err();
    assert_eq!(error.to_string(), "sierra&1: no core among the allowed cpus");
    std::fs::write(&path, "<topology>").unwrap();
    let error = discover(Allowed::All).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn version_1_tells_compute_devices_by_info() {
    let text = r#"<topology><object type="Machine" local_memory="5">
        <object type="Socket"><object type="Core" cpuset="0x1"/></object>
        <object type="OSDev" name="cuda0" osdev_type="5"><info name="CoProcType" value="CUDA"/></object>
        <object type="OSDev" name="mic0" osdev_type="5"><info name="CoProcType" value="MIC"/></object>
        </object></topology>"#;
    let host = parse_xml(text).unwrap();
    assert_eq!((host.gpu_count(), host.memory, host.cores()), (1, 5, 0..1));
}

#[test]
fn threads_stand_in_for_cores_that_are_not_told() {
    let text = r#"<topology><object type="Machine"><object type="PU" cpuset="0x1"/>
        <object type="PU" cpuset="0x2"/></object></topology>"#;
    assert_eq!(parse_xml(text).unwrap().cores(), 0..2);
}

#[test]
fn what_is_no_topology_is_refused() {
    let deep = "<a>".repeat(100_000);
    for text in ["", "hello", "<x/>", "<topology/>", "<topology", "<a></b>", &deep] {
        assert!(matches!(parse_xml(text), Err(TopoError::Xml(_))), "{text:.20}");
    }
    let bad_set = SAMPLE.replace("0x0000000a", "0xf...f");
    assert!(parse_xml(&bad_set).is_err());
    let entity = SAMPLE.replace("sierra&amp;1", "&boom;");
    assert!(parse_xml(&entity).is_err());
}

proptest! {
    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0..SAMPLE.len(), with in "[<>/\"=a&0 ]{0,3}") {
        let mut text = SAMPLE.to_owned();
        text.replace_range(at..(at + 1), &with);
        drop(parse_xml(&text));
    }
}
