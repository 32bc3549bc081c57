// The REST interface as Swagger UI shows it, which a Python package brings along: see page.py.

globalThis.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  // Otherwise it asks a validator elsewhere about every description that is not on this machine.
  validatorUrl: null,
});
