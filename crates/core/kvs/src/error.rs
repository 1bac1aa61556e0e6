//! What can go wrong in the store, and the errno each failure has on the wire.

use flux_api::RpcError;
use flux_model::blobref::Blobref;
use flux_model::treeobj::KeyError;
use flux_proto::Errno;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvsError {
    /// Nobody made this namespace, or it was removed.
    #[error("kvs: namespace '{0}' does not exist")]
    NoNamespace(String),
    /// A guest asked for a namespace of somebody else.
    #[error("kvs: namespace '{0}' belongs to another user")]
    NotOwner(String),
    /// The key, or a directory on its way, is not there.
    #[error("kvs: key '{0}' does not exist")]
    Missing(String),
    /// A directory where a value was asked for.
    #[error("kvs: key '{0}' is a directory")]
    IsDirectory(String),
    /// A value where a directory was asked for.
    #[error("kvs: key '{0}' is not a directory")]
    NotDirectory(String),
    /// No symlink where one was asked for.
    #[error("kvs: key '{0}' is not a symbolic link")]
    NotLink(String),
    /// More than ten links.
    #[error("kvs: key '{0}' leads through too many symbolic links")]
    TooManyLinks(String),
    /// The key has no valid form.
    #[error("kvs: {0}")]
    BadKey(#[from] KeyError),
    /// A request that contradicts itself.
    #[error("kvs: {0}")]
    Invalid(String),
    /// A body that breaks the protocol.
    #[error("kvs: {0}")]
    Protocol(String),
    /// A guest commits what only the owner may.
    #[error("guests may not commit {0} objects")]
    GuestObject(&'static str),
    /// A guest puts more into a namespace than it may hold.
    #[error("kvs: namespace '{name}' may get {max} from its user (kvs.guest-namespace-max)")]
    Quota {
        /// Namespace.
        name: String,
        /// How much, for people.
        max: String,
    },
    /// A guest reads below a root of its choice.
    #[error("kvs: guests read by namespace, not by root")]
    GuestRoot,
    /// Append to a symlink.
    #[error("kvs: cannot append to '{0}', which is a symbolic link")]
    AppendLink(String),
    /// Append to a directory.
    #[error("kvs: cannot append to '{0}', which is a directory")]
    AppendDirectory(String),
    /// A stored object is damaged or lost.
    #[error("kvs: object {blobref} is unusable: {reason}")]
    BadObject {
        /// Its address.
        blobref: Blobref,
        /// What is wrong with it.
        reason: String,
    },
    /// A transaction refers to what is not stored, or is not what it should be.
    #[error("kvs: {keys} cannot be stored: {error}")]
    Dangling {
        /// The keys whose objects refer to others.
        keys: String,
        /// What the store says.
        error: RpcError,
    },
    /// The value does not fit in a response.
    #[error("kvs: the value of '{key}' has more than {limit} bytes; read it as a stream")]
    TooLarge {
        /// Key.
        key: String,
        /// Largest value in bytes.
        limit: usize,
    },
    /// A queue is full.
    #[error("kvs: {0} requests wait already; try again later")]
    Busy(usize),
    /// The store could not take the commit, or a blob could not be read.
    #[error("kvs: {what}: {error}")]
    Store {
        /// What was tried.
        what: String,
        /// Answer of the content service.
        error: RpcError,
    },
    /// The namespace is there already.
    #[error("kvs: namespace '{0}' exists already")]
    Exists(String),
    /// The primary namespace stays.
    #[error("kvs: namespace 'primary' cannot be removed")]
    Primary,
    /// The service stops.
    #[error("kvs: the service is shutting down")]
    Stopping,
}

impl KvsError {
    /// The errno on the wire.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoNamespace(_) | Self::Primary | Self::AppendLink(_) => Errno::EOPNOTSUPP,
            Self::NotOwner(_) | Self::GuestObject(_) | Self::GuestRoot => Errno::EPERM,
            Self::Quota { .. } => Errno::EDQUOT,
            Self::Missing(_) => Errno::ENOENT,
            Self::IsDirectory(_) | Self::AppendDirectory(_) => Errno::EISDIR,
            Self::NotDirectory(_) => Errno::ENOTDIR,
            Self::NotLink(_) | Self::BadKey(_) | Self::Invalid(_) => Errno::EINVAL,
            Self::TooManyLinks(_) => Errno::ELOOP,
            Self::Protocol(_) => Errno::EPROTO,
            Self::BadObject { .. } => Errno::ENOTRECOVERABLE,
            Self::TooLarge { .. } => Errno::EOVERFLOW,
            Self::Busy(_) => Errno::EAGAIN,
            Self::Store { error, .. } | Self::Dangling { error, .. } => error.errno,
            Self::Exists(_) => Errno::EEXIST,
            Self::Stopping => Errno::ENOSYS,
        }
    }
}

impl From<KvsError> for RpcError {
    fn from(error: KvsError) -> Self {
        Self::new(error.errno(), error.to_string())
    }
}
