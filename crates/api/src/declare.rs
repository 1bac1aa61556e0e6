//! The macros that turn one declaration into types, dispatch and catalogue.

/// Declares a service: an exhaustive enum of its requests, and one [`crate::Rpc`] type for each.
///
/// `Name = "topic", role, shape, Request => Response;` with role `owner`, `user` or `any`, and
/// shape `unary`, `streaming`, `either` or `silent`. Each doc line becomes the reference page.
macro_rules! api {
    (
        $(#[doc = $sdoc:literal])+
        pub enum $api:ident($($service:literal),+) {
            $(
                $(#[doc = $doc:literal])+
                $name:ident = $topic:literal, $role:ident, $shape:ident, $req:ty => $resp:ty;
            )+
        }
    ) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug)]
            pub struct $name;

            impl $crate::rpc::Rpc for $name {
                const TOPIC: &'static str = $topic;
                const ROLE: flux_proto::Rolemask = api!(@role $role);
                const SHAPE: $crate::rpc::Shape = api!(@shape $shape);
                type Request = $req;
                type Response = $resp;
            }
        )+

        $(#[doc = $sdoc])+
        #[derive(Debug)]
        #[allow(clippy::large_enum_variant, reason = "a call is moved once, to whoever serves it")]
        pub enum $api {
            $(
                $(#[doc = $doc])+
                $name($crate::rpc::Call<$name>),
            )+
        }

        impl $crate::rpc::Api for $api {
            const SERVICES: &'static [&'static str] = &[$($service),+];
            const METHODS: &'static [$crate::rpc::Method] = &[
                $(
                    $crate::rpc::Method {
                        topic: $topic,
                        role: api!(@role $role),
                        shape: api!(@shape $shape),
                        request: stringify!($req),
                        response: stringify!($resp),
                        doc: concat!($($doc),+),
                    },
                )+
            ];

            fn decode(
                message: flux_proto::Message,
            ) -> Result<Self, (flux_proto::Message, $crate::rpc::RpcError)> {
                match message.topic() {
                    $( $topic => $crate::rpc::Call::decode(message).map(Self::$name), )+
                    topic => {
                        let text = format!("Unknown service method '{topic}'");
                        Err((
                            message,
                            $crate::rpc::RpcError::new(flux_proto::Errno::ENOSYS, text),
                        ))
                    }
                }
            }
        }
    };
    (@role owner) => { flux_proto::Rolemask::OWNER };
    (@role user) => { flux_proto::Rolemask(flux_proto::Rolemask::OWNER.0 | flux_proto::Rolemask::USER.0) };
    (@role any) => { flux_proto::Rolemask::ALL };
    (@shape unary) => { $crate::rpc::Shape::Unary };
    (@shape streaming) => { $crate::rpc::Shape::Streaming };
    (@shape either) => { $crate::rpc::Shape::Either };
    (@shape silent) => { $crate::rpc::Shape::Silent };
}

/// Declares message bodies: serde structs whose optional fields are left out when absent.
macro_rules! bodies {
    (
        $(
            $(#[$smeta:meta])*
            pub struct $name:ident {
                $( $(#[$fmeta:meta])* pub $field:ident : $ty:ty, )*
            }
        )+
    ) => {
        $(
            $(#[$smeta])*
            #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
            pub struct $name {
                $( $(#[$fmeta])* pub $field: $ty, )*
            }
            impl $crate::body::JsonBody for $name {}
        )+
    };
}
