//! Hostile components as texts of their own, each small enough to be read at a glance.

use anyhow::{Context, Result};

/// The handler's imports and types, and what exports it: `handle` of the core instance `$core`.
fn component(parts: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            {parts}
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(&text).with_context(|| format!("a hostile text is not valid: {text:.2000}"))
}

/// How `handle` is lifted; `options` are more options of the lift.
fn lift(options: &str) -> String {
    format!(
        r#"(func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $core "handle") {options}))"#
    )
}

/// A component whose handler runs `body`, beside `fields` of its module.
pub(super) fn handler(fields: &str, body: &str) -> Result<Vec<u8>> {
    component(&format!(
        r#"(core module $module {fields} (func (export "handle") (param i32 i32) {body}))
        (core instance $core (instantiate $module)) {}"#,
        lift("")
    ))
}

/// A component whose core start function runs `body`.
pub(super) fn start(body: &str) -> Result<Vec<u8>> {
    handler(&format!("(func $start {body}) (start $start)"), "")
}

/// A component whose post-return function runs `body`.
pub(super) fn post_return(body: &str) -> Result<Vec<u8>> {
    component(&format!(
        r#"(core module $module (func (export "handle") (param i32 i32)) (func (export "post") {body}))
        (core instance $core (instantiate $module)) {}"#,
        lift(r#"(post-return (core func $core "post"))"#)
    ))
}

/// A component with a resource of its own, whose destructor runs `destroy`; the handler runs
/// `body`, which may call `$new` and `$drop`.
pub(super) fn resource(destroy: &str, body: &str) -> Result<Vec<u8>> {
    component(&format!(
        r#"(core module $dtor (func (export "dtor") (param i32) {destroy}))
        (core instance $dtor (instantiate $dtor))
        (type $mine (resource (rep i32) (dtor (core func $dtor "dtor"))))
        (core func $new (canon resource.new $mine))
        (core func $drop (canon resource.drop $mine))
        (core module $module
            (import "host" "new" (func $new (param i32) (result i32)))
            (import "host" "drop" (func $drop (param i32)))
            (func (export "handle") (param i32 i32) {body}))
        (core instance $core (instantiate $module
            (with "host" (instance (export "new" (func $new)) (export "drop" (func $drop)))))) {}"#,
        lift("")
    ))
}

/// A component that may drop the handles it was given, with `$drop`.
pub(super) fn dropping(body: &str) -> Result<Vec<u8>> {
    component(&format!(
        r#"(core func $drop (canon resource.drop $request))
        (core module $module
            (import "host" "drop" (func $drop (param i32)))
            (func (export "handle") (param $request i32) (param $out i32) {body}))
        (core instance $core (instantiate $module
            (with "host" (instance (export "drop" (func $drop)))))) {}"#,
        lift("")
    ))
}

/// A component that may read configuration: `$get` takes the key's place, its length and a
/// place for the answer. The key `NAME` is at 8, no UTF-8 at 16; `realloc` is the body of its allocator.
pub(super) fn calling(realloc: &str, body: &str) -> Result<Vec<u8>> {
    component(&format!(
        r#"(import "wasi:config/store@0.2.0-rc.1" (instance $config
            (type $failed (variant (case "upstream" string) (case "io" string)))
            (export "error" (type $error (eq $failed)))
            (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
        (core module $libc
            (memory (export "memory") 1)
            (data (i32.const 8) "NAME")
            (data (i32.const 16) "\ff\fe\ff\fe")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc}))
        (core instance $libc (instantiate $libc))
        (core func $get (canon lower (func $config "get")
            (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
        (core module $module
            (import "host" "get" (func $get (param i32 i32 i32)))
            (func (export "handle") (param i32 i32) {body}))
        (core instance $core (instantiate $module
            (with "host" (instance (export "get" (func $get)))))) {}"#,
        lift("")
    ))
}

/// A component of `count` core modules and instances, each with `fields`.
pub(super) fn many_instances(count: usize, fields: &str) -> Result<Vec<u8>> {
    let each: String = (0..count).map(|_| "(core instance (instantiate $each))").collect();
    component(&format!(
        r#"(core module $each {fields}) {each}
        (core module $module (func (export "handle") (param i32 i32)))
        (core instance $core (instantiate $module)) {}"#,
        lift("")
    ))
}

/// A component with `count` imports that nobody offers.
pub(super) fn many_imports(count: usize) -> Result<Vec<u8>> {
    let imports: String = (0..count).map(|n| format!(r#"(import "hostile:bomb/i{n}" (func))"#)).collect();
    Ok(wat::parse_str(format!("(component {imports})"))?)
}

/// A component that imports what is not offered.
pub(super) fn unknown_import() -> Result<Vec<u8>> {
    Ok(wat::parse_str(r#"(component (import "hostile:secrets/read@1.0.0" (instance)))"#)?)
}

/// A component that exports `name` as an empty instance.
pub(super) fn exporting(name: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!(r#"(component (instance $none) (export "{name}" (instance $none)))"#))?)
}

/// Components within components, `depth` deep: made of bytes, as texts may not be so deep.
pub(super) fn nested(depth: usize) -> Vec<u8> {
    const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
    const COMPONENT_SECTION: u8 = 4;
    let mut bytes = HEADER.to_vec();
    for _ in 0..depth {
        // A length of five bytes, as LEB128 without the shortest form.
        let length = [0, 7, 14, 21, 28].map(|shift| {
            let low = u8::try_from((bytes.len() >> shift) & 0x7f).unwrap_or_default();
            if shift < 28 { low | 0x80 } else { low }
        });
        bytes = [HEADER, &[COMPONENT_SECTION], &length, &bytes].concat();
    }
    bytes
}
