// A closed network: the app goes out through one subnet, storage and vault are private endpoints in another.

param name string
param location string
param tags object

@description('Addresses of the whole network; each subnet takes a fourth of them.')
param addressPrefix string

@description('Storage account and vault to reach.')
param storageAccountName string
param keyVaultName string

var storageId = resourceId('Microsoft.Storage/storageAccounts', storageAccountName)
var vaultId = resourceId('Microsoft.KeyVault/vaults', keyVaultName)

var endpoints = [
  { group: 'blob', resourceId: storageId, zone: 'privatelink.blob.${environment().suffixes.storage}' }
  { group: 'queue', resourceId: storageId, zone: 'privatelink.queue.${environment().suffixes.storage}' }
  { group: 'table', resourceId: storageId, zone: 'privatelink.table.${environment().suffixes.storage}' }
  {
    group: 'vault'
    resourceId: vaultId
    zone: replace(environment().suffixes.keyvaultDns, '.vault.', 'privatelink.vaultcore.')
  }
]

var bits = int(last(split(addressPrefix, '/'))) + 2

resource network 'Microsoft.Network/virtualNetworks@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: [addressPrefix] }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, bits, 0)
          delegations: [{ name: 'app', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      {
        name: 'endpoints'
        properties: { addressPrefix: cidrSubnet(addressPrefix, bits, 1), privateEndpointNetworkPolicies: 'Disabled' }
      }
    ]
  }

  resource inner 'subnets' existing = { name: 'endpoints' }
}

module privateEndpoints 'private-endpoint.bicep' = [
  for endpoint in endpoints: {
    params: {
      group: endpoint.group
      resourceId: endpoint.resourceId
      zone: endpoint.zone
      networkId: network.id
      subnetId: network::inner.id
      location: location
      tags: tags
    }
  }
]
