use proptest::prelude::*;

use super::*;

const RFC: JobId = JobId(6_731_191_091_817_518);

#[test]
fn the_id_of_the_rfc_has_its_spellings() {
    assert_eq!(RFC.dec(), "6731191091817518");
    assert_eq!(RFC.f58(), "ƒuZZybuNNy");
    assert_eq!(RFC.f58plain(), "fuZZybuNNy");
    assert_eq!(RFC.hex(), "0x17e9fb8df16c2e");
    assert_eq!(RFC.dothex(), "0017.e9fb.8df1.6c2e");
    assert_eq!(RFC.kvs(), "job.0017.e9fb.8df1.6c2e");
    assert_eq!(RFC.words(), "reform-remote-galileo--heart-package-academy");
    assert_eq!(RFC.to_string(), RFC.f58());
}

#[test]
fn examples_of_the_rfc_agree_with_each_other() {
    for text in [
        "ƒZemgA8Bzf",
        "ƒ278oEf7zGf",
        "0xedaf97d000000",
        "000e.daf9.7d00.0000",
        "random-idea-yoyo--sugar-printer-academy",
        "🚹💂🙌😳💱🏃",
        "😄😹🎇📥🏧🙉🔞",
        "🚹💂🈳💰🎩🏃",
    ] {
        let id: JobId = text.parse().unwrap();
        assert!(
            JobIdForm::ALL.iter().any(|&(_, form)| id.format(form) == text),
            "{text} {id:?} {}",
            id.emoji()
        );
    }
    let id: JobId = "0xedaf97d000000".parse().unwrap();
    assert_eq!("000e.daf9.7d00.0000".parse(), Ok(id));
}

#[test]
fn the_form_is_told_by_the_text() {
    for (text, id) in [
        ("0", 0),
        ("007", 7),
        (" 42\n", 42),
        ("0x0", 0),
        ("0xfF", 255),
        ("f1", 0),
        ("ƒ1", 0),
        ("ƒ2", 1),
        ("f11112", 1),
        ("0000.0000.0000.0001", 1),
        ("job.0000.0003.e100.0000", 0x0003_e100_0000),
        ("academy-academy-academy--academy-academy-academy", 0),
        ("Acrobat-academy-academy-academy-academy-academy", 1),
        ("😃", 0),
        ("😄😃", 576),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(text.parse(), Ok(JobId(id)), "{text}");
    }
    // Base58 has no checksum: many words are ids.
    assert!("fuzzy".parse::<JobId>().is_ok());
}

#[test]
fn what_is_no_id_is_refused() {
    for (text, error) in [
        ("", JobIdError::Empty),
        (" \t", JobIdError::Empty),
        ("+5", JobIdError::Decimal),
        ("0X5", JobIdError::Decimal),
        ("bar", JobIdError::Decimal),
        ("-5", JobIdError::Words),
        ("5-", JobIdError::Words),
        ("a-b", JobIdError::Words),
        ("academy-academy-academy", JobIdError::Words),
        ("academy-academy-academy-academy-academy-academy-academy", JobIdError::Words),
        ("academy-academy-academy-academy-academy-yes", JobIdError::Words),
        ("academy-academy-academy-academy-academy-zoo", JobIdError::Words),
        ("1.5", JobIdError::DotHex),
        ("job.f1", JobIdError::DotHex),
        ("0000.0000.0000.0000.0000", JobIdError::DotHex),
        ("000.0000.0000.00000", JobIdError::DotHex),
        ("0000.0000.0000.+000", JobIdError::DotHex),
        ("f", JobIdError::F58),
        ("ƒ", JobIdError::F58),
        ("f0", JobIdError::F58),
        ("fé", JobIdError::F58),
        ("0x", JobIdError::Hex),
        ("0xg", JobIdError::Hex),
        ("0x+1", JobIdError::Hex),
        ("0x10000000000000000", JobIdError::Range),
        ("18446744073709551616", JobIdError::Range),
        ("fzzzzzzzzzzzzzzzz", JobIdError::Range),
        ("🔳🔳🔳🔳🔳🔳🔳🔳🔳", JobIdError::Range),
        ("😃x", JobIdError::Emoji),
        ("🤖", JobIdError::Emoji),
    ] {
        assert_eq!(text.parse::<JobId>(), Err(error), "{text}");
    }
}

#[test]
fn the_largest_word_is_bounded_to_its_half() {
    let text = "academy-academy-academy--zoom-zoom-zoom";
    assert!(matches!(text.parse::<JobId>(), Ok(_) | Err(JobIdError::Range)));
    assert_eq!(JobId::ANY.words().parse(), Ok(JobId::ANY));
}

#[test]
fn json_is_an_integer() {
    assert_eq!(serde_json::to_string(&RFC).unwrap(), "6731191091817518");
    assert_eq!(serde_json::from_str::<JobId>("6731191091817518").unwrap(), RFC);
    assert_eq!(serde_json::to_string(&JobId::ANY).unwrap(), "-1");
    assert_eq!(serde_json::from_str::<JobId>("-1").unwrap(), JobId::ANY);
    assert_eq!(serde_json::from_str::<JobId>("18446744073709551615").unwrap(), JobId::ANY);
    assert!(serde_json::from_str::<JobId>("\"1\"").is_err());
    assert!(serde_json::from_str::<JobId>("1.5").is_err());
}

#[test]
fn a_generator_counts_within_its_millisecond_and_then_waits() {
    let mut generator = Generator::new(3, 100).unwrap();
    for sequence in 0..1024 {
        assert_eq!(generator.next(0), Ok(JobId::from_parts(100, 3, sequence)));
    }
    assert_eq!(generator.next(0), Err(Wait::Until(1)));
    assert_eq!(generator.next(1), Ok(JobId::from_parts(101, 3, 0)));
    // The clock went back: no id is made twice.
    assert_eq!(generator.next(0), Ok(JobId::from_parts(101, 3, 1)));
    assert_eq!(generator.timestamp(0), 101);
    assert_eq!(generator.timestamp(50), 150);
}

#[test]
fn a_generator_has_bounds() {
    assert!(Generator::new(Generator::MAX_ID, 0).is_ok());
    assert_eq!(Generator::MAX_RANK, 16367);
    assert_eq!(Generator::new(16384, 0), Err(GeneratorError::Id(16384)));
    let mut generator = Generator::new(0, (1 << 40) - 1).unwrap();
    assert!(generator.next(0).is_ok());
    assert_eq!(generator.next(1), Err(Wait::Never));
    assert_eq!(generator.next(u64::MAX), Err(Wait::Never));
    assert!(generator.next(0).is_ok());
}

proptest! {
    #[test]
    fn every_form_round_trips(id: u64) {
        let id = JobId(id);
        for (name, form) in JobIdForm::ALL {
            prop_assert_eq!(id.format(form).parse(), Ok(id));
            prop_assert_eq!(JobIdForm::from_name(name), Some(form));
        }
        prop_assert_eq!(JobId::from_parts(id.timestamp(), id.generator(), id.sequence()), id);
        let json = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
    }

    #[test]
    fn ids_of_a_generator_ascend(steps in proptest::collection::vec(0u64..5, 0..3000)) {
        let mut generator = Generator::new(7, 1).unwrap();
        let (mut clock, mut last) = (0, None);
        for step in steps {
            clock += step / 4;
            if let Ok(id) = generator.next(clock) {
                prop_assert!(last < Some(id));
                last = Some(id);
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*", close in "(f|ƒ|0x|job\\.)?[0-9a-fA-Z.😃-]{0,24}") {
        for text in [text, close] {
            let _ = text.parse::<JobId>();
        }
    }
}
