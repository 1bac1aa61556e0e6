//! Lines and cutting a stream into lines.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use flux_pmi::{Line, LineBuffer, LineError, MAX_LINE};
use proptest::prelude::*;

fn get<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    Line::parse(text).ok()?.get(key)
}

#[test]
fn pairs_come_in_any_order_with_any_blanks_between() {
    let text = "  kvsname=x \t cmd=get  key=a extra=1 \n";
    let line = Line::parse(text).unwrap();
    assert_eq!(line.cmd(), "get");
    assert_eq!((line.get("kvsname"), line.get("key")), (Some("x"), Some("a")));
    assert_eq!((line.number("extra"), line.number("key"), line.get("none")), (Some(1), None, None));
    assert_eq!(line.rc(), 0);
}

#[test]
fn a_value_is_the_rest_of_the_line() {
    let text = "cmd=put kvsname=k key=a value= {\"a\": 1} rc=5 =x \n";
    assert_eq!(get(text, "value"), Some(" {\"a\": 1} rc=5 =x "));
    assert_eq!(get(text, "rc"), None);
    assert_eq!(get("cmd=get_result rc=0 value=", "value"), Some(""));
    assert_eq!(get("cmd=abort exitcode=2 error_msg=rc=5 is bad", "error_msg"), Some("rc=5 is bad"));
}

#[test]
fn a_message_goes_on_to_the_next_known_key() {
    let text = "cmd=get_result rc=-1 msg=key a=b not found  value=unknown";
    assert_eq!(get(text, "msg"), Some("key a=b not found"));
    assert_eq!(get(text, "value"), Some("unknown"));
    assert_eq!(Line::parse(text).unwrap().rc(), -1);
    assert_eq!(get("msg=success", "msg"), Some("success"));
}

#[test]
fn words_without_a_key_belong_to_the_one_before() {
    assert_eq!(get("cmd=publish_name service=a b =c port=x", "service"), Some("a b =c"));
    assert_eq!(Line::parse("stray cmd=init"), Err(LineError::NoPair));
    assert_eq!(Line::parse("\n").unwrap().cmd(), "");
}

#[test]
fn a_result_code_that_is_no_number_is_a_failure() {
    assert_eq!(Line::parse("cmd=x rc=yes").unwrap().rc(), -1);
}

#[test]
fn lines_are_bounded() {
    let long = format!("value={}", "x".repeat(MAX_LINE));
    assert_eq!(Line::parse(&long), Err(LineError::TooLong));
    assert_eq!(Line::parse(&"a=b ".repeat(100)), Err(LineError::TooManyPairs));
    assert_eq!(Line::parse("a=\0"), Err(LineError::NotText));
    assert_eq!(Line::parse("a=1\nb=2"), Err(LineError::NotText));
}

#[test]
fn a_stream_is_cut_into_lines() {
    let mut buffer = LineBuffer::new();
    buffer.feed(b"cmd=in");
    assert_eq!(buffer.next_line(), Ok(None));
    buffer.feed(b"it\n\ncmd=x\ncm");
    assert_eq!(buffer.next_line(), Ok(Some("cmd=init".to_owned())));
    assert_eq!(buffer.next_line(), Ok(Some(String::new())));
    assert_eq!(buffer.next_line(), Ok(Some("cmd=x".to_owned())));
    assert_eq!(buffer.next_line(), Ok(None));
    buffer.feed(b"\xff\n");
    assert_eq!(buffer.next_line(), Err(LineError::NotText));
}

#[test]
fn a_stream_without_newline_is_refused_at_the_limit() {
    let mut buffer = LineBuffer::new();
    buffer.feed(&vec![b'a'; MAX_LINE]);
    assert_eq!(buffer.next_line(), Ok(None));
    buffer.feed(b"\n");
    assert_eq!(buffer.next_line().unwrap().unwrap().len(), MAX_LINE);
    buffer.feed(&vec![b'a'; MAX_LINE + 1]);
    assert_eq!(buffer.next_line(), Err(LineError::TooLong));
    buffer.feed(b"\n");
    assert_eq!(buffer.next_line(), Err(LineError::TooLong));
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC*") {
        drop(Line::parse(&text));
    }

    #[test]
    fn almost_lines_parse_or_are_refused(text in "([a-c=  \t]|msg=|value=|rc=|é){0,40}") {
        if let Ok(line) = Line::parse(&text) {
            prop_assert!(line.get("value").is_none_or(|v| text.ends_with(v)));
        }
    }

    #[test]
    fn values_survive_as_they_are(value in "[ -~\t]{0,200}") {
        let text = format!("cmd=put kvsname=k key=a value={value}\n");
        prop_assert_eq!(get(&text, "value"), Some(&value[..]));
    }

    #[test]
    fn streams_give_the_same_lines_in_any_pieces(
        lines in proptest::collection::vec("[a-z= ]{0,30}", 0..20), step in 1_usize..40,
    ) {
        let stream: String = lines.iter().flat_map(|l| [l, "\n"]).collect();
        let (mut buffer, mut seen) = (LineBuffer::new(), Vec::new());
        for piece in stream.as_bytes().chunks(step) {
            buffer.feed(piece);
            while let Some(line) = buffer.next_line().unwrap() {
                seen.push(line);
            }
        }
        prop_assert_eq!(seen, lines);
    }
}
