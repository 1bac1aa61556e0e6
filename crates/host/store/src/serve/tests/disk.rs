//! A disk that loses what was not synced: a layer between SQLite and its files that notes every
//! write and sync below a directory, lets syncs fail, and can say at any moment what the disk
//! would hold after a power cut.

#![allow(unsafe_code, reason = "SQLite's file system interface is C")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Once};

use rusqlite::ffi;

/// A change of a file.
#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

fn apply(image: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(at, data) => {
            let at = usize::try_from(*at).unwrap();
            if image.len() < at + data.len() {
                image.resize(at + data.len(), 0);
            }
            image[at..at + data.len()].copy_from_slice(data);
        }
        Op::Truncate(length) => image.resize(usize::try_from(*length).unwrap(), 0),
    }
}

/// One file: what is on the platter, and what is on its way there.
#[derive(Debug, Clone, Default)]
struct Platter {
    durable: Vec<u8>,
    pending: Vec<Op>,
}

/// A disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<PathBuf, Platter>,
    /// What the test was promised.
    pub(super) promised: i64,
    /// Of so many syncs one fails; 0 for none.
    pub(super) fails: u64,
    /// Of so many changes one is followed by a power cut.
    pub(super) cuts: u64,
    /// What was there at each cut, and what had been promised then.
    pub(super) crashes: Vec<(BTreeMap<PathBuf, Vec<u8>>, i64)>,
    /// Syncs, and those that failed.
    pub(super) syncs: (u64, u64),
    state: u64,
}

impl Disk {
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// The power goes: synced changes are there, others or not, or in part.
    fn cut(&mut self) {
        let mut images = BTreeMap::new();
        for (path, platter) in self.files.clone() {
            let mut image = platter.durable;
            for op in platter.pending {
                match (op, self.random() % 3) {
                    (op, 0) => apply(&mut image, &op),
                    (Op::Write(at, mut data), 1) => {
                        // Sectors reach the disk, not pages.
                        let sectors = self.random() % (data.len() as u64 / 512 + 1);
                        data.truncate(usize::try_from(sectors * 512).unwrap());
                        apply(&mut image, &Op::Write(at, data));
                    }
                    _ => {}
                }
            }
            let promised = crate::format::beside(&path, "-promised");
            images.insert(path, image);
            // It is written past SQLite: at best all of it is there.
            if let Ok(bytes) = std::fs::read(&promised) {
                images.insert(promised, bytes);
            }
        }
        self.crashes.push((images, self.promised));
    }

    fn change(&mut self, path: &Path, op: Op) {
        self.files.entry(path.to_path_buf()).or_default().pending.push(op);
        if self.cuts > 0 && self.random().is_multiple_of(self.cuts) {
            self.cut();
        }
    }

    fn sync(&mut self, path: &Path) -> bool {
        self.syncs.0 += 1;
        let fails = self.fails > 0 && self.random().is_multiple_of(self.fails);
        if self.cuts > 0 && self.random().is_multiple_of(self.cuts) {
            self.cut();
        }
        let platter = self.files.entry(path.to_path_buf()).or_default();
        // After a failed sync the kernel takes what could not be written for written.
        let pending = std::mem::take(&mut platter.pending);
        if fails {
            self.syncs.1 += 1;
            return false;
        }
        for op in &pending {
            apply(&mut platter.durable, op);
        }
        true
    }
}

type Disks = Mutex<BTreeMap<PathBuf, Arc<Mutex<Disk>>>>;

static DISKS: LazyLock<Disks> = LazyLock::new(Mutex::default);

/// A disk for the files of this directory.
pub(super) fn disk(directory: &Path, seed: u64) -> Arc<Mutex<Disk>> {
    install();
    let disk = Disk { state: seed | 1, ..Disk::default() };
    let disk = Arc::new(Mutex::new(disk));
    DISKS.lock().unwrap().insert(directory.to_path_buf(), Arc::clone(&disk));
    disk
}

/// Somebody wrote a file of a disk past SQLite, and synced it.
pub(crate) fn written_again(path: &Path, bytes: Vec<u8>) -> std::io::Result<()> {
    let Some(disk) = disk_of(path) else { return Ok(()) };
    let mut disk = disk.lock().unwrap();
    // In pieces, of which a power cut may leave any out.
    for (at, piece) in bytes.chunks(4096).enumerate() {
        disk.change(path, Op::Write(at as u64 * 4096, piece.to_vec()));
    }
    let done = disk.sync(path);
    done.then_some(()).ok_or_else(|| std::io::Error::other("the sync failed"))
}

fn disk_of(path: &Path) -> Option<Arc<Mutex<Disk>>> {
    DISKS.lock().unwrap().get(path.parent()?).cloned()
}

/// Our file, with SQLite's own behind it in memory.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    noted: *mut (PathBuf, Arc<Mutex<Disk>>),
}

/// The file that does the work.
///
/// # Safety
/// `file` was opened by [`open`].
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: `open` was given memory for both, ours first.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// Calls a method of the file that does the work.
macro_rules! pass {
    ($name:ident, $method:ident $(, $arg:ident: $type:ty)*) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $arg: $type)*) -> c_int {
            // SAFETY: SQLite calls this with a file that `open` made, with arguments of its own.
            unsafe {
                let real = real(file);
                (*(*real).pMethods).$method.unwrap()(real $(, $arg)*)
            }
        }
    };
}

pass!(read, xRead, to: *mut c_void, length: c_int, at: ffi::sqlite3_int64);
pass!(file_size, xFileSize, size: *mut ffi::sqlite3_int64);
pass!(lock, xLock, level: c_int);
pass!(unlock, xUnlock, level: c_int);
pass!(check_reserved, xCheckReservedLock, out: *mut c_int);
pass!(control, xFileControl, op: c_int, arg: *mut c_void);
pass!(sector_size, xSectorSize);
pass!(characteristics, xDeviceCharacteristics);
pass!(real_write, xWrite, from: *const c_void, length: c_int, at: ffi::sqlite3_int64);
pass!(real_truncate, xTruncate, length: ffi::sqlite3_int64);
pass!(real_sync, xSync, flags: c_int);
pass!(real_close, xClose);

/// What is noted of a file.
///
/// # Safety
/// `file` was opened by [`open`] and is not closed.
unsafe fn noted<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a (PathBuf, Arc<Mutex<Disk>>)> {
    // SAFETY: `noted` is null or from a box that `close` takes back.
    unsafe { (*file.cast::<File>()).noted.as_ref() }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives `length` bytes.
    unsafe {
        if let Some((path, disk)) = noted(file) {
            let length = usize::try_from(length).unwrap();
            let data = std::slice::from_raw_parts(from.cast::<u8>(), length).to_vec();
            disk.lock().unwrap().change(path, Op::Write(u64::try_from(at).unwrap(), data));
        }
        real_write(file, from, length, at)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: ffi::sqlite3_int64) -> c_int {
    // SAFETY: as for every method.
    unsafe {
        if let Some((path, disk)) = noted(file) {
            disk.lock().unwrap().change(path, Op::Truncate(u64::try_from(length).unwrap()));
        }
        real_truncate(file, length)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as for every method.
    unsafe {
        match noted(file) {
            Some((path, disk)) => {
                if disk.lock().unwrap().sync(path) {
                    ffi::SQLITE_OK
                } else {
                    ffi::SQLITE_IOERR_FSYNC
                }
            }
            None => real_sync(file, flags),
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the box was made by `open` and is taken back once.
    unsafe {
        let noted = (*file.cast::<File>()).noted;
        if !noted.is_null() {
            drop(Box::from_raw(noted));
        }
        real_close(file)
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// The file system that does the work.
///
/// # Safety
/// `vfs` is the one that [`install`] made.
unsafe fn below(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: `install` put it there.
    unsafe { (*vfs).pAppData.cast() }
}

fn path_of(name: *const c_char) -> Option<PathBuf> {
    if name.is_null() {
        return None;
    }
    // SAFETY: SQLite's names end with a zero.
    Some(PathBuf::from(unsafe { CStr::from_ptr(name) }.to_str().ok()?))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives `szOsFile` bytes for the file.
    unsafe {
        let below = below(vfs);
        let ours = file.cast::<File>();
        (*ours).base.pMethods = std::ptr::null();
        (*ours).noted = std::ptr::null_mut();
        let rc = (*below).xOpen.unwrap()(below, name, real(file), flags, out);
        if rc != ffi::SQLITE_OK {
            return rc;
        }
        if let Some(path) = path_of(name)
            && let Some(disk) = disk_of(&path)
        {
            (*ours).noted = Box::into_raw(Box::new((path, disk)));
        }
        (*ours).base.pMethods = &raw const METHODS;
        rc
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if let Some(path) = path_of(name)
        && let Some(disk) = disk_of(&path)
    {
        disk.lock().unwrap().files.remove(&path);
    }
    // SAFETY: these are SQLite's arguments.
    unsafe {
        let below = below(vfs);
        (*below).xDelete.unwrap()(below, name, sync)
    }
}

/// Puts the layer in front of the usual file system, for every connection from now on; it notes
/// only files below directories that have a [`disk`].
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structure lives for ever, and its other methods take the one they are given
        // only as a name for the usual file system, which looks at nothing in it.
        unsafe {
            let below = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut vfs = std::ptr::read(below);
            let own = size_of::<File>() as c_int;
            vfs.szOsFile = own + (*below).szOsFile;
            vfs.zName = c"noting".as_ptr();
            vfs.pAppData = below.cast();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            vfs.pNext = std::ptr::null_mut();
            let vfs = Box::leak(Box::new(vfs));
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 1), ffi::SQLITE_OK);
        }
    });
}
