// The vault that holds the secrets. The app may read them; who puts them in is given a role by hand (README).
import { roles } from 'roles.bicep'

@description('Name, unique in Azure: 3 to 24 letters, digits and hyphens.')
@minLength(3)
@maxLength(24)
param name string

param location string
param tags object

@description('Reachable through a private endpoint only.')
param isPrivate bool

@description('Object id of the app\'s identity.')
param principalId string

@description('Two random texts; of them the key is made that proves notifications to be answers to our own subscriptions.')
@secure()
param randomText string = newGuid()
@secure()
param moreRandomText string = newGuid()

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    networkAcls: { bypass: 'None', defaultAction: isPrivate ? 'Deny' : 'Allow' }
  }
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, principalId, roles.keyVaultSecretsUser)
  scope: vault
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsUser)
  }
}

// Made once: another one would make every subscription a stranger. Who changes it keeps the old one as
// `client-state-key-previous` until the subscriptions are replaced (README).
@onlyIfNotExists()
resource clientStateKey 'Microsoft.KeyVault/vaults/secrets@2025-05-01' = {
  parent: vault
  name: 'client-state-key'
  properties: { value: '${randomText}${moreRandomText}', attributes: { enabled: true } }
}
