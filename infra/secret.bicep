// Puts one secret into the vault by way of Azure Resource Manager: also when the vault is reachable from its network only.
// The value is a secure parameter: it is not kept with the deployment.

param vaultName string

@description('Name in the vault: the setting\'s key in lower case with hyphens, such as threatconnect-secret-key.')
param secretName string

@secure()
param value string

@description('When it ends, in seconds since 1970. The app warns before that.')
param expires int?

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' existing = {
  name: vaultName
}

resource secret 'Microsoft.KeyVault/vaults/secrets@2025-05-01' = {
  parent: vault
  name: secretName
  properties: { value: value, attributes: { enabled: true, exp: expires } }
}
