//! Pages of the program that only its start needed.
//!
//! A start runs through much code once: configuration, hardware, files of former runs, TLS. The
//! kernel maps sixteen pages for each that is touched, so that a broker which then idles for days
//! would show most of the program as its memory. What it goes on using is mapped again at once,
//! from the page cache.
#![expect(unsafe_code, reason = "mapped pages of the program's file are given back")]

use nix::libc;

/// The ranges of `maps` (as `/proc/PID/maps` has them) that hold the code of `program`.
fn code(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (perms, rest) = rest.split_once(' ')?;
        let path = rest.splitn(4, ' ').nth(3)?.trim_start();
        if perms != "r-xp" || path != program {
            return None;
        }
        let (begin, end) = range.split_once('-')?;
        Some((usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter_map(range).collect()
}

/// Gives the pages of the program's code back. Where `/proc` says nothing they stay.
pub(crate) fn give_back_code() {
    let (Ok(maps), Ok(program)) =
        (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe"))
    else {
        return;
    };
    for (begin, end) in code(&maps, &program.to_string_lossy()) {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(begin);
        // SAFETY: a private mapping of a file that cannot be written through: nothing is in it but
        // what the file holds, and a page that is touched again comes from there again.
        unsafe { libc::madvise(at, end.saturating_sub(begin), libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_is_meant() {
        let maps = "\
            55d000000000-55d000100000 r--p 00000000 fe:00 12                         /opt/a b/flux\n\
            55d000100000-55d000300000 r-xp 00100000 fe:00 12                         /opt/a b/flux\n\
            55d000300000-55d000310000 rw-p 00300000 fe:00 12                         /opt/a b/flux\n\
            7f0000000000-7f0000001000 r-xp 00000000 fe:00 13                         /lib/libc.so.6\n\
            7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0                          [vdso]\n\
            7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n";
        assert_eq!(code(maps, "/opt/a b/flux"), [(0x55d0_0010_0000, 0x55d0_0030_0000)]);
        assert!(code("nonsense\n\n", "/opt/a b/flux").is_empty());
    }

    #[test]
    fn a_program_goes_on_without_the_pages_it_had() {
        give_back_code();
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!code(&maps, &own.to_string_lossy()).is_empty());
    }
}
