/** The tables as exports of a module, which is where drizzle-kit looks for them. */
module.exports = require("../src/store/schema.ts").postgresTables;
