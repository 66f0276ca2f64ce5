//! The two forms of schema: [`Types`] for built-in kinds (facts taken from Go's types), [`Structural`] for custom resources.
//!
//! `Types` reads a compact text per Go API package, each on first use:
//!
//! ```text
//! # comment
//! type PodSpec k8s.io.api.core.v1.PodSpec
//!   volumes 1 []Volume o list=map keys=name patch=merge,retainKeys key=name
//!   terminationGracePeriodSeconds 4 *int64 o
//!   - 1 .VolumeSource inline
//! ```
//!
//! A field is `JSON-name proto-number shape flags…`; number 0 or `-` is not in the protobuf message; `-` as name is an
//! embedded struct, or, when its shape is a list, says that the type itself is that list in JSON (`ExtraValue`, `Verbs`).

mod decode;
mod parse;
mod structural;

use std::fmt;
use std::sync::OnceLock;

pub(crate) use decode::is_empty;
pub use decode::{Decoded, decode, decode_errors, prune, zero};
pub use structural::{AdditionalProperties, Structural, ValueRules, matches_format};

use crate::Value;

/// What a field holds.
#[derive(Debug)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Float64,
    Bytes,
    /// `metav1.Time`, seconds.
    Time,
    /// `metav1.MicroTime`, microseconds.
    MicroTime,
    /// `metav1.Duration`, text in JSON.
    Duration,
    Quantity,
    IntOrString,
    RawExtension,
    FieldsV1,
    /// `apiextensions.JSON`: any JSON value, kept as bytes in protobuf.
    Json,
    /// Anything.
    Any,
    Ref(TypeName),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// The name of a type, resolved on first use.
pub struct TypeName {
    file: &'static str,
    local: &'static str,
    found: OnceLock<Option<TypeId>>,
}

/// Where a type stands: file and place in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TypeId {
    file: u16,
    index: u16,
}

/// How a list is owned and merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ListType {
    #[default]
    Unset,
    Atomic,
    Set,
    Map,
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MapType {
    #[default]
    Unset,
    Granular,
    Atomic,
}

/// Strategic merge patch: what to do with the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    /// JSON name; empty for inlined structs.
    pub name: &'static str,
    /// Protobuf number; 0 when it is not in the message.
    pub number: u32,
    pub shape: Shape,
    /// Is it a pointer in Go, so that zero and absent differ?
    pub pointer: bool,
    pub omitempty: bool,
    /// Does OpenAPI list it as required?
    pub required: bool,
    /// Are its own fields members of the outer object?
    pub inline: bool,
    pub list_type: ListType,
    pub list_map_keys: Vec<&'static str>,
    pub map_type: MapType,
    pub patch: PatchStrategy,
    pub merge_key: Option<&'static str>,
    /// OpenAPI's default, which serves OpenAPI and list-map keys only.
    pub default: Option<Value>,
    pub enumeration: Vec<&'static str>,
}

impl Field {
    /// Does Go print the field even when it is zero?
    pub fn always(&self) -> bool {
        !self.inline && (!self.omitempty || (!self.pointer && self.shape.is_struct()))
    }
}

impl Shape {
    /// Is it a struct in Go, which `omitempty` never leaves out?
    const fn is_struct(&self) -> bool {
        matches!(
            self,
            Self::Ref(_)
                | Self::Time
                | Self::MicroTime
                | Self::Duration
                | Self::Quantity
                | Self::IntOrString
                | Self::RawExtension
                | Self::FieldsV1
                | Self::Json
        )
    }
}

/// JSON forms that do not mirror the protobuf message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Special {
    None,
    /// The one list in the message.
    List,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStringArray,
}

/// One Go struct.
pub struct Type {
    /// `PodSpec`
    pub name: &'static str,
    /// `core/v1`
    pub file: &'static str,
    /// The full name of the protobuf message, if it has one.
    pub proto: Option<&'static str>,
    /// As written in the facts.
    pub fields: Vec<Field>,
    pub(crate) special: Special,
    /// Fields in the order of their protobuf numbers.
    by_number: Vec<u16>,
    index: OnceLock<Index>,
}

/// The members of the JSON object, inlined ones included, sorted by name.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) members: Vec<Member>,
    /// Members that Go always prints.
    pub(crate) always: Vec<u16>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    /// Does Go print it even when it is zero?
    pub(crate) always: bool,
    owner: TypeId,
    field: u16,
}

struct File {
    name: &'static str,
    text: &'static str,
    types: OnceLock<Vec<Type>>,
}

/// All built-in types of one Kubernetes minor.
pub struct Types {
    files: Vec<File>,
    /// Full names of types that are owned as a whole, sorted.
    atomic: OnceLock<Vec<String>>,
}

impl Types {
    /// From (name, text) of each file; nothing is parsed before it is needed.
    pub fn new(files: &'static [(&'static str, &'static str)]) -> Self {
        let mut files: Vec<File> =
            files.iter().map(|(name, text)| File { name, text, types: OnceLock::new() }).collect();
        files.sort_by_key(|f| f.name);
        Self { files, atomic: OnceLock::new() }
    }

    /// The type of a name like `core/v1.PodSpec`.
    pub fn get(&self, name: &str) -> Option<&Type> {
        let (file, local) = name.rsplit_once('.')?;
        self.find(file, local).map(|id| self.at(id))
    }

    /// The type a field refers to; `None` when the facts lack it.
    pub fn resolve(&self, name: &TypeName) -> Option<&Type> {
        (*name.found.get_or_init(|| self.find(name.file, name.local))).map(|id| self.at(id))
    }

    /// All types, file by file.
    pub fn all(&self) -> impl Iterator<Item = &Type> {
        (0..self.files.len()).flat_map(|i| self.file(i))
    }

    /// The field behind a member of the JSON object, inlined ones included.
    pub fn member(&self, ty: &Type, name: &str) -> Option<&Field> {
        let index = self.index(ty);
        let i = index.members.binary_search_by(|m| m.name.cmp(name)).ok()?;
        Some(self.field(&index.members[i]))
    }

    /// All members of the JSON object, sorted by name.
    pub fn members(&self, ty: &Type) -> impl Iterator<Item = (&'static str, &Field)> {
        self.index(ty).members.iter().map(|m| (m.name, self.field(m)))
    }

    /// Is the struct owned as a whole (`+structType=atomic`)? The facts say so on the fields that hold it.
    pub fn is_atomic(&self, ty: &Type) -> bool {
        let names = self.atomic.get_or_init(|| {
            let atomic = self.all().flat_map(|t| &t.fields).filter(|f| f.map_type == MapType::Atomic);
            let mut names: Vec<String> =
                atomic.filter_map(|f| struct_of(self, &f.shape)).map(Type::full_name).collect();
            names.sort_unstable();
            names.dedup();
            names
        });
        names.binary_search(&ty.full_name()).is_ok()
    }

    /// The list a type stands for in JSON, when it is no object.
    pub fn as_list<'a>(&self, ty: &'a Type) -> Option<&'a Field> {
        if ty.special == Special::List { ty.fields.first() } else { None }
    }

    fn find(&self, file: &str, local: &str) -> Option<TypeId> {
        let at = self.files.binary_search_by(|f| f.name.cmp(file)).ok()?;
        let index = self.file(at).binary_search_by(|t| t.name.cmp(local)).ok()?;
        Some(TypeId { file: u16::try_from(at).ok()?, index: u16::try_from(index).ok()? })
    }

    fn file(&self, at: usize) -> &[Type] {
        let file = &self.files[at];
        file.types.get_or_init(|| parse::parse(file.name, file.text))
    }

    fn at(&self, id: TypeId) -> &Type {
        &self.file(usize::from(id.file))[usize::from(id.index)]
    }

    pub(crate) fn field(&self, member: &Member) -> &Field {
        &self.at(member.owner).fields[usize::from(member.field)]
    }

    pub(crate) fn index<'a>(&self, ty: &'a Type) -> &'a Index {
        ty.index.get_or_init(|| {
            let mut members = Vec::with_capacity(ty.fields.len());
            if let Some(id) = self.find(ty.file, ty.name) {
                self.collect(id, &mut members, 0);
            }
            members.sort_by_key(|m: &Member| m.name);
            members.dedup_by_key(|m| m.name);
            let always = (0..members.len()).filter(|i| members[*i].always).map(|i| i as u16).collect();
            Index { members, always }
        })
    }

    /// As [`Field::always`], knowing which types are lists.
    fn is_always(&self, field: &Field) -> bool {
        let list = matches!(&field.shape, Shape::Ref(n) if self.resolve(n).is_some_and(|t| t.special == Special::List));
        field.always() && !(list && field.omitempty)
    }

    fn collect(&self, id: TypeId, members: &mut Vec<Member>, depth: usize) {
        const INLINE_DEPTH_MAX: usize = 8;
        for (i, field) in self.at(id).fields.iter().enumerate() {
            match &field.shape {
                Shape::Ref(name) if field.inline && depth < INLINE_DEPTH_MAX => {
                    if let Some(inner) = self.find(name.file, name.local) {
                        self.collect(inner, members, depth + 1);
                    }
                }
                _ if field.inline => {}
                _ => {
                    members.push(Member { name: field.name, always: self.is_always(field), owner: id, field: i as u16 })
                }
            }
        }
    }
}

/// The struct a field holds, alone or in a list or map.
pub(crate) fn struct_of<'t>(types: &'t Types, shape: &Shape) -> Option<&'t Type> {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => struct_of(types, inner),
        Shape::Ref(name) => types.resolve(name).filter(|ty| ty.special == Special::None),
        _ => None,
    }
}

impl Type {
    /// `core/v1.PodSpec`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.file, self.name)
    }

    /// `v1.PodSpec`, as Go's errors name it.
    pub fn go_name(&self) -> String {
        format!("{}.{}", self.file.rsplit('/').next().unwrap_or_default(), self.name)
    }

    /// The field of a protobuf number.
    pub fn by_number(&self, number: u32) -> Option<&Field> {
        let at = self.by_number.binary_search_by_key(&number, |i| self.fields[usize::from(*i)].number).ok()?;
        Some(&self.fields[usize::from(self.by_number[at])])
    }

    /// The fields that are in the protobuf message, in order of their numbers.
    pub fn numbered(&self) -> impl DoubleEndedIterator<Item = &Field> {
        self.by_number.iter().map(|i| &self.fields[usize::from(*i)])
    }
}

impl TypeName {
    /// `PodSpec`
    pub const fn local(&self) -> &'static str {
        self.local
    }

    /// `core/v1`
    pub const fn file(&self) -> &'static str {
        self.file
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.file, self.local)
    }
}

impl fmt::Debug for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full_name())
    }
}

impl fmt::Debug for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|file| file.name)).finish()
    }
}

#[cfg(test)]
pub(crate) mod samples;
