//! Runtime classes.

use machinery::FieldError;

use crate::strategy::Strategy;
use crate::validation::{At, Errors, labels, resources, scheduling};

pub(crate) static STRATEGY: Strategy = Strategy {
    create_on_update: true,
    unconditional_update: false,
    validate: |at, _, errors| runtime_class(at, errors),
    validate_update: Some(|new, old, _, errors| {
        errors.immutable(&new.field("handler"), &old.field("handler"));
        runtime_class(new, errors);
    }),
    ..Strategy::PLAIN
};

fn runtime_class(at: &At<'_>, errors: &mut Errors) {
    errors.dns_label(&at.field("handler"));
    let fixed = at.at(&["overhead", "podFixed"]);
    // Upstream judges them as the limits of a container.
    resources::amounts(&fixed.renamed(at.field("overhead").path.child("limits")), errors);
    let scheduling = at.field("scheduling");
    labels(&scheduling.field("nodeSelector"), errors);
    let tolerations = scheduling.field("tolerations");
    scheduling::tolerations(&tolerations.renamed(tolerations.path.child("tolerations")), errors);
    let items = tolerations.items();
    for (i, toleration) in items.iter().enumerate() {
        let key = |t: &At<'_>| ["key", "operator", "value", "effect"].map(|m| t.field(m).text().to_owned());
        if items[..i].iter().any(|t| key(t) == key(toleration)) {
            let [key, operator, value, effect] = key(toleration);
            let mut error = FieldError::duplicate(&toleration.path, toleration.value);
            error.value = format!(
                "core.Toleration{{Key:{key:?}, Operator:{operator:?}, Value:{value:?}, Effect:{effect:?}, TolerationSeconds:(*int64)(nil)}}"
            );
            errors.push(error);
        }
    }
}
