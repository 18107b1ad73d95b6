// Parses and binds KQL with Microsoft's own parser.
// Reads {"tables": {table: {column: type}}, "queries": [{"name", "text"}]} from standard input; writes one line per diagnostic.
// The parser is found in the folder given as first argument: it is installed outside the sources.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import path from 'node:path';

const require = createRequire(path.resolve(process.argv[2], 'package.json'));
require('@kusto/language-service-next/bridge.js');
require('@kusto/language-service-next/Kusto.Language.Bridge.js');
const { KustoCode, GlobalState, Symbols } = globalThis.Kusto.Language;

const { tables, queries } = JSON.parse(readFileSync(0, 'utf8'));
const symbols = Object.entries(tables)
    .filter(([name]) => !name.startsWith('$'))
    .map(([name, columns]) => {
        const schema = Object.entries(columns).map(([column, type]) => `${column}: ${type}`).join(', ');
        return Symbols.TableSymbol.From(`(${schema})`).WithName(name);
    });
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.$ctor1('workspace', symbols));

for (const { name, text } of queries) {
    const code = KustoCode.ParseAndAnalyze(text, globals);
    const diagnostics = code.GetDiagnostics();
    for (let i = 0; i < diagnostics.Count; i += 1) {
        const diagnostic = diagnostics.getItem(i);
        const line = text.slice(0, diagnostic.Start).split('\n').length;
        console.log(`${name}:${line}: ${diagnostic.Severity} ${diagnostic.Code}: ${diagnostic.Message}`);
    }
}
