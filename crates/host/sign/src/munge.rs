//! MUNGE credentials, by libmunge loaded at run time.
#![expect(unsafe_code, reason = "libmunge is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use nix::libc;

use crate::library::Library;

/// Names the library has had.
const NAMES: [&CStr; 2] = [c"libmunge.so.2", c"libmunge.so"];

/// Most bytes of a credential that are given to the library; the daemon's own limit is lower.
const CREDENTIAL_MAX: usize = 1 << 20;

const SUCCESS: c_int = 0;
const SOCKET: c_int = 6;
const TIMEOUT: c_int = 7;
const EXPIRED: c_int = 15;
const REPLAYED: c_int = 17;

const OPT_ENCODE_TIME: c_int = 6;
const OPT_SOCKET: c_int = 8;

/// Why MUNGE gave no credential, or accepted none.
#[derive(Debug, thiserror::Error)]
pub enum MungeError {
    /// The library is not installed.
    #[error(
        "MUNGE: libmunge.so.2 is not installed: install MUNGE, give this node the key of the cluster, and start munged"
    )]
    Library,
    /// The library lacks a function.
    #[error("MUNGE: libmunge has no function {0}: install MUNGE 0.5.8 or later")]
    Symbol(&'static str),
    /// The daemon does not answer.
    #[error(
        "MUNGE: {0}: is munged running on this node? (systemctl start munge; test with: munge -n | unmunge)"
    )]
    Daemon(String),
    /// The library or daemon says no.
    #[error("MUNGE: {0}")]
    Refused(String),
    /// The text can be no credential.
    #[error("MUNGE: the credential is malformed")]
    Malformed,
}

type CtxCreate = unsafe extern "C" fn() -> *mut c_void;
type CtxDestroy = unsafe extern "C" fn(*mut c_void);
type CtxStrerror = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type CtxOption = unsafe extern "C" fn(*mut c_void, c_int, ...) -> c_int;
type Encode = unsafe extern "C" fn(*mut *mut c_char, *mut c_void, *const c_void, c_int) -> c_int;
type Decode = unsafe extern "C" fn(
    *const c_char,
    *mut c_void,
    *mut *mut c_void,
    *mut c_int,
    *mut libc::uid_t,
    *mut libc::gid_t,
) -> c_int;
type Strerror = unsafe extern "C" fn(c_int) -> *const c_char;

/// The library with the functions that are needed, and where the daemon listens.
#[derive(Debug)]
pub struct Munge {
    _library: Library,
    create: CtxCreate,
    destroy: CtxDestroy,
    explain: CtxStrerror,
    get: CtxOption,
    set: CtxOption,
    encode: Encode,
    decode: Decode,
    strerror: Strerror,
    socket: Option<CString>,
}

/// What a credential says, as the daemon vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What was encoded.
    pub payload: Vec<u8>,
    /// Who has encoded it.
    pub uid: u32,
    /// When, in seconds since the epoch.
    pub encoded: i64,
}

/// A context of one call.
struct Context<'a> {
    munge: &'a Munge,
    at: *mut c_void,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the context was made by this library and is not used afterwards.
        unsafe { (self.munge.destroy)(self.at) };
    }
}

/// Memory of `malloc`.
struct Allocated(*mut c_void);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: libmunge hands over memory of malloc, or null.
        unsafe { libc::free(self.0) };
    }
}

impl Munge {
    /// Loads the library. `socket` is where the daemon listens if not at its usual place.
    ///
    /// # Errors
    /// [`MungeError::Library`] or [`MungeError::Symbol`].
    pub fn open(socket: Option<&str>) -> Result<Self, MungeError> {
        let library =
            NAMES.iter().find_map(|name| Library::open(name)).ok_or(MungeError::Library)?;
        let find = |name: &'static CStr| {
            library.symbol(name).ok_or(MungeError::Symbol(name.to_str().unwrap_or("munge")))
        };
        let (create, destroy) = (find(c"munge_ctx_create")?, find(c"munge_ctx_destroy")?);
        let (explain, strerror) = (find(c"munge_ctx_strerror")?, find(c"munge_strerror")?);
        let (get, set) = (find(c"munge_ctx_get")?, find(c"munge_ctx_set")?);
        let (encode, decode) = (find(c"munge_encode")?, find(c"munge_decode")?);
        // SAFETY: the types are those that munge.h declares for the functions of these names.
        unsafe {
            Ok(Self {
                create: std::mem::transmute::<*mut c_void, CtxCreate>(create),
                destroy: std::mem::transmute::<*mut c_void, CtxDestroy>(destroy),
                explain: std::mem::transmute::<*mut c_void, CtxStrerror>(explain),
                get: std::mem::transmute::<*mut c_void, CtxOption>(get),
                set: std::mem::transmute::<*mut c_void, CtxOption>(set),
                encode: std::mem::transmute::<*mut c_void, Encode>(encode),
                decode: std::mem::transmute::<*mut c_void, Decode>(decode),
                strerror: std::mem::transmute::<*mut c_void, Strerror>(strerror),
                socket: socket.and_then(|path| CString::new(path).ok()),
                _library: library,
            })
        }
    }

    fn context(&self) -> Result<Context<'_>, MungeError> {
        // SAFETY: takes nothing.
        let at = unsafe { (self.create)() };
        if at.is_null() {
            return Err(MungeError::Refused("out of memory".to_string()));
        }
        let context = Context { munge: self, at };
        if let Some(socket) = &self.socket {
            // SAFETY: this option takes a string, which the library copies.
            let code = unsafe { (self.set)(at, OPT_SOCKET, socket.as_ptr()) };
            if code != SUCCESS {
                return Err(self.error(&context, code));
            }
        }
        Ok(context)
    }

    fn error(&self, context: &Context<'_>, code: c_int) -> MungeError {
        // SAFETY: both give null or a string that lives as long as the context or library.
        let text = unsafe {
            let detailed = (self.explain)(context.at);
            let text = if detailed.is_null() { (self.strerror)(code) } else { detailed };
            if text.is_null() {
                format!("error {code}")
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        match code {
            SOCKET | TIMEOUT => MungeError::Daemon(text),
            _ => MungeError::Refused(text),
        }
    }

    /// A credential of the calling process for `payload`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn encode(&self, payload: &[u8]) -> Result<String, MungeError> {
        let context = self.context()?;
        let length = c_int::try_from(payload.len()).map_err(|_| MungeError::Malformed)?;
        let mut text: *mut c_char = ptr::null_mut();
        // SAFETY: buffer and length belong together, the result is memory of malloc or null.
        let code = unsafe { (self.encode)(&mut text, context.at, payload.as_ptr().cast(), length) };
        let _owner = Allocated(text.cast());
        if code != SUCCESS || text.is_null() {
            return Err(self.error(&context, code));
        }
        // SAFETY: on success it is a string.
        let text = unsafe { CStr::from_ptr(text) };
        let text = text.to_str().map_err(|_| MungeError::Malformed)?;
        if text.contains('.') {
            return Err(MungeError::Malformed);
        }
        Ok(text.to_string())
    }

    /// What a credential says. One that is expired or was seen before counts: the age is for the
    /// caller to judge, and several parties of a node look at the same credential.
    ///
    /// # Errors
    /// It is not genuine, or the daemon does not answer.
    pub fn decode(&self, credential: &str) -> Result<Credential, MungeError> {
        if credential.len() > CREDENTIAL_MAX {
            return Err(MungeError::Malformed);
        }
        let text = CString::new(credential).map_err(|_| MungeError::Malformed)?;
        let context = self.context()?;
        let (mut buffer, mut length): (*mut c_void, c_int) = (ptr::null_mut(), 0);
        let (mut uid, mut gid) = (libc::uid_t::MAX, libc::gid_t::MAX);
        // SAFETY: all pointers are to variables of this function, the text ends with NUL.
        let code = unsafe {
            (self.decode)(text.as_ptr(), context.at, &mut buffer, &mut length, &mut uid, &mut gid)
        };
        let owner = Allocated(buffer);
        if !matches!(code, SUCCESS | EXPIRED | REPLAYED) {
            return Err(self.error(&context, code));
        }
        let length = usize::try_from(length).unwrap_or(0);
        let payload = if owner.0.is_null() || length == 0 {
            Vec::new()
        } else {
            // SAFETY: the library says that so many bytes are there.
            unsafe { std::slice::from_raw_parts(owner.0.cast::<u8>(), length) }.to_vec()
        };
        let mut encoded: libc::time_t = 0;
        // SAFETY: this option writes a time_t.
        let code = unsafe { (self.get)(context.at, OPT_ENCODE_TIME, &raw mut encoded) };
        if code != SUCCESS {
            return Err(self.error(&context, code));
        }
        // The unset value of both is not a user: no credential is of nobody.
        if uid == libc::uid_t::MAX {
            return Err(MungeError::Malformed);
        }
        Ok(Credential { payload, uid, encoded })
    }
}
