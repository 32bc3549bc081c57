// The threshold workbench: a configuration of events, overall and for single labels, behind sliders.

import { DEFAULT_EVENTS } from "./detector.js";

const FIELDS = ["onset_threshold", "offset_threshold", "min_duration", "max_gap"];

export class Workbench {
  #labels = [];
  #config = structuredClone(DEFAULT_EVENTS);
  #isTouched = false;

  /** `form` holds a fieldset for all labels and one for a single label; `onChange(config)` is told of every change. */
  constructor(form, onChange) {
    this.onChange = onChange;
    this.common = form.querySelector("[data-scope=all]");
    this.single = form.querySelector("[data-scope=label]");
    this.choice = form.querySelector("#label");
    this.list = form.querySelector("#overrides");
    this.common.addEventListener("input", ({ target }) => this.#input(target, this.common));
    this.single.addEventListener("input", ({ target }) => this.#input(target, this.single));
    this.choice.addEventListener("change", () => this.#show());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("#reset").addEventListener("click", () => this.#replace(structuredClone(this.defaults ?? DEFAULT_EVENTS)));
    this.#show();
  }

  get config() {
    return this.#config;
  }

  set labels(labels) {
    this.#labels = labels;
    const chosen = this.choice.value;
    const sorted = [...labels].sort((a, b) => a.localeCompare(b));
    this.choice.replaceChildren(new Option("Choose a label…", ""), ...sorted.map((label) => new Option(label, label)));
    this.choice.value = labels.includes(chosen) ? chosen : "";
    const known = Object.entries(this.#config.per_label).filter(([label]) => labels.includes(label));
    this.#config.per_label = Object.fromEntries(known);
    this.#show();
    this.onChange(this.#config);
  }

  /** Takes the server's configuration, unless somebody has moved a slider. */
  offer(config) {
    const named = Object.entries(config.per_label ?? {}).map(([key, own]) => [this.#nameOf(key), withoutNulls(own)]);
    this.defaults = { ...config, per_label: Object.fromEntries(named) };
    if (this.#isTouched) return;
    this.#config = structuredClone(this.defaults);
    this.#show();
    this.onChange(this.#config);
  }

  #nameOf(key) {
    return this.#labels.find((label) => label.toLowerCase() === key.toLowerCase()) ?? this.#labels[Number(key)] ?? key;
  }

  #replace(config) {
    this.#config = config;
    this.#changed();
  }

  #changed() {
    this.#isTouched = true;
    this.#show();
    this.onChange(this.#config);
  }

  #input(target, scope) {
    const field = target.dataset.field;
    if (!field || !target.checkValidity() || target.value === "") return;
    const value = Number(target.value);
    const chosen = scope === this.single ? (this.#config.per_label[this.choice.value] ??= {}) : this.#config;
    chosen[field] = value;
    const other = { ...this.#config, ...chosen };
    // An offset threshold above the onset threshold means nothing: the other slider gives way.
    if (field === "onset_threshold" && other.offset_threshold > value) chosen.offset_threshold = value;
    if (field === "offset_threshold" && other.onset_threshold < value) chosen.onset_threshold = value;
    if (scope === this.common) this.#keepOrder();
    this.#changed();
  }

  /** A label that has only one of the thresholds of its own takes the other from all, which has moved. */
  #keepOrder() {
    for (const own of Object.values(this.#config.per_label)) {
      const { onset_threshold: onset, offset_threshold: offset } = { ...this.#config, ...own };
      if (offset > onset && own.onset_threshold === undefined) own.onset_threshold = offset;
      else if (offset > onset) own.offset_threshold = onset;
    }
  }

  #show() {
    this.#fill(this.common, this.#config);
    const label = this.choice.value;
    this.single.disabled = label === "";
    this.#fill(this.single, { ...this.#config, ...this.#config.per_label[label] });
    this.list.replaceChildren(...Object.entries(this.#config.per_label).map(([name, own]) => this.#item(name, own)));
  }

  #fill(scope, values) {
    for (const field of FIELDS) {
      const input = scope.querySelector(`[data-field=${field}]`);
      if (!input) continue;
      if (document.activeElement !== input || input.type === "range") input.value = values[field];
      const output = scope.querySelector(`output[for=${input.id}]`);
      if (output) output.value = values[field].toFixed(2);
    }
  }

  #item(name, own) {
    const item = document.createElement("li");
    const text = document.createElement("button");
    text.type = "button";
    text.className = "plain";
    const values = FIELDS.filter((field) => own[field] !== undefined).map((field) => `${field.split("_")[0]} ${own[field]}`);
    text.textContent = `${name}: ${values.join(", ")}`;
    text.addEventListener("click", () => {
      this.choice.value = name;
      this.#show();
      this.choice.focus();
    });
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove the thresholds of ${name}`);
    remove.addEventListener("click", () => {
      delete this.#config.per_label[name];
      this.#changed();
      this.choice.focus();
    });
    item.append(text, remove);
    return item;
  }
}

function withoutNulls(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
}
