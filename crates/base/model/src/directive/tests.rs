use super::*;
use proptest::prelude::*;

fn words(script: &str) -> Vec<Vec<String>> {
    Directives::parse(script).unwrap().items.into_iter().map(|item| item.words).collect()
}

fn error(script: &str) -> String {
    Directives::parse(script).unwrap_err().to_string()
}

/// The words of a script whose directives hold one word each.
fn single(script: &str) -> Vec<String> {
    words(script).into_iter().flatten().collect()
}

#[test]
fn rfc_shell_script_example() {
    let script = "#!/bin/sh
#FLUX: -N4                  # Request four nodes
#FLUX: --queue=batch        # Submit to the batch queue
#FLUX: --job-name=app001    # Set an explicit job name
flux run -N4 app
";
    let found = Directives::parse(script).unwrap();
    assert_eq!(found.sentinel.as_deref(), Some("#FLUX:"));
    assert_eq!(found.options().collect::<Vec<_>>(), ["-N4", "--queue=batch", "--job-name=app001"]);
    assert_eq!(found.items[0].line, 2);
}

#[test]
fn rfc_python_docstring_example() {
    let script = r#"#!/usr/bin/env python3
def main():
    """
    flux: -N4
    flux: --queue=batch
    flux: --job-name="my python job"
     
    # Set some arbitrary user data:
    flux: --setattr=user.data='''
    flux: x, y, z
    flux: a, b, c
    flux: '''
    """
    run()
"#;
    assert_eq!(
        single(script),
        [
            "-N4",
            "--queue=batch",
            "--job-name=my python job",
            "--setattr=user.data=x, y, z\na, b, c\n"
        ]
    );
}

#[test]
fn rfc_lua_example() {
    let script = "#!/usr/bin/lua
--
-- flux: -N1 --exclusive
-- flux: --output=job.out
local app = require 'app'
app.run()
";
    assert_eq!(single(script), ["-N1", "--exclusive", "--output=job.out"]);
}

#[test]
fn rfc_mixed_comment_examples() {
    let shell = "#!/bin/sh
# Set flux directives
#FLUX: -N1
# Set job name:
#FLUX: --job-name=test
hostname; date
";
    assert_eq!(single(shell), ["-N1", "--job-name=test"]);
    let python = "#!/usr/bin/env python3
\"\"\"
flux: --nodes=4

Set an arbitrary value in jobspec:
flux: --setattr=user.foo=\"hello, earth\"
\"\"\"
";
    assert_eq!(single(python), ["--nodes=4", "--setattr=user.foo=hello, earth"]);
}

#[test]
fn rfc_quoting_examples() {
    assert_eq!(
        single(r#"# flux: --setattr=user.data='{"option": "arg"}'"#),
        [r#"--setattr=user.data={"option": "arg"}"#]
    );
    assert_eq!(single(r#"# flux: --job-name='''It's a "job"'''"#), [r#"--job-name=It's a "job""#]);
    assert_eq!(
        single(r#"# flux: --setattr=user.foo="""{"key": 42}""""#),
        [r#"--setattr=user.foo={"key": 42}"#]
    );
    assert_eq!(single("# flux: -N4 # -c2 : comment out for now"), ["-N4"]);
}

#[test]
fn rfc_multi_line_literal() {
    let script = "# flux: --setattr=user.conf=\"\"\"
# flux: [config]
# flux:   item = \"foo\"
# flux: \"\"\"
";
    assert_eq!(single(script), ["--setattr=user.conf=[config]\n  item = \"foo\"\n"]);
}

#[test]
fn rfc_orphan_directives_are_refused() {
    assert_eq!(
        error("#!/bin/sh\n#FLUX: -N1\nhostname; date\n#FLUX: --job-name=test\n"),
        "line 4: orphan directive '#FLUX: --job-name=test': directives must precede the script body"
    );
    assert!(error("# flux: -N4\n# flux: -c2\necho hi\n# flux: --queue=batch").contains("line 4"));
}

#[test]
fn posix_quoting_is_followed() {
    assert_eq!(
        words(r#"#flux: a\ b "c \" \d" 'e\f'g"h" '' x#y"#),
        [vec!["a b", r#"c " \d"#, r"e\fgh", "", "x#y"]]
    );
}

#[test]
fn faults_name_their_line() {
    assert_eq!(error("\n# flux: 'abc"), "line 2: unclosed ' quote");
    assert_eq!(error("# flux: \"abc\\\""), "line 1: unclosed \" quote");
    assert_eq!(error("# flux: abc\\"), "line 1: nothing follows the final backslash");
    assert_eq!(error("# flux: x='''\n# flux: a"), "line 1: unclosed ''' quote");
    assert_eq!(
        error("# flux: x='''a\n# flux: b'''"),
        "line 1: an opening ''' of several lines must end its line"
    );
    assert_eq!(
        error("# flux: x='''\n# flux: b''' c"),
        "line 2: a closing ''' of several lines must end its line"
    );
    assert_eq!(
        error("# flux: x='''\nb\n# flux: '''"),
        "line 2: inside ''' every line must begin with '# flux:'"
    );
    assert_eq!(
        error("#flux: -N1\n# flux: -n2"),
        "line 2: sentinel '# flux:' differs from the first one, '#flux:'"
    );
}

#[test]
fn files_without_directives_have_none() {
    assert_eq!(Directives::parse("#!/bin/sh\nmyflux: x\necho flux: y\n").unwrap().sentinel, None);
    assert_eq!(Directives::parse("").unwrap(), Directives::default());
}

#[test]
fn carriage_returns_and_bare_prefixes_do_not_end_the_block() {
    assert_eq!(single("# flux: -N1\r\n#\r\n\r\n# flux: -n1\r\n"), ["-N1", "-n1"]);
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in "(\\PC|\n|#|flux:|FLUX:|'|\"|\\\\){0,80}") {
        drop(Directives::parse(&text));
    }

    #[test]
    fn single_quoted_words_survive(list in prop::collection::vec("[^'\n\r]{1,12}", 1..5)) {
        let quoted: Vec<String> = list.iter().map(|word| format!("'{word}'")).collect();
        prop_assert_eq!(words(&format!("# flux: {}", quoted.join(" "))), [list]);
    }
}
