//! Everything on the client port beside the core services, asked with real clients over loopback: the JSON gateway,
//! locks and elections, health, reflection, metrics, and the flags that change how they are served.

mod command;
mod gateway;
mod grpc;
mod rig;
mod tls;
mod turns;
