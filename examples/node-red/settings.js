// Node-RED as an executor: the flow, on the loopback, and nothing else.
const path = require("path");

module.exports = {
    uiHost: "127.0.0.1",
    uiPort: Number(process.env.PORT || 1880),

    // No editor and no admin API: the flow is a file under version control.
    httpAdminRoot: false,
    disableEditor: true,
    flowFile: path.join(__dirname, "flow.json"),
    readOnly: true,
    userDir: __dirname,

    // Nothing is installed, and nobody is called, behind your back.
    credentialSecret: false,
    functionExternalModules: false,
    externalModules: {
        autoInstall: false,
        palette: { allowInstall: false },
        modules: { allowInstall: false },
    },
    telemetry: { enabled: false, updateNotification: false },

    logging: { console: { level: process.env.LOG_LEVEL || "info", metrics: false, audit: false } },
};
