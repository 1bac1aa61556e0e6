//! Lines of the PMI-1 wire protocol (RFC 13).
#![no_main]

use flux_pmi::line::{Line, LineBuffer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = LineBuffer::new();
    for piece in data.chunks(5) {
        buffer.feed(piece);
        loop {
            match buffer.next_line() {
                Ok(Some(text)) => {
                    if let Ok(line) = Line::parse(&text) {
                        let _ = (line.cmd(), line.rc(), line.get("key"), line.number("rank"));
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
