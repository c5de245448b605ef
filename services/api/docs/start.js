// The browsable document: Swagger UI over our own openapi.json, asking no other host. It knows OpenAPI 3.0 only.
window.ui = SwaggerUIBundle({
  url: new URL("openapi.json?version=3.0", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it would send the document to a host of Swagger's
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
