// The app on the Flex Consumption plan. Settings that Flex forbids or sets itself are absent (`cargo xtask infra` holds the list).
import { Job } from 'job.bicep'

param planName string
param appName string
param location string
param tags object

@description('The app is found by this name in azure.yaml.')
param serviceName string

@description('The user-assigned identity, and what it signs in to.')
param identityName string
param storageAccountName string
param keyVaultName string
param insightsName string

@description('Subnet for outgoing traffic.')
param subnetId string?

param zoneRedundant bool
param maximumInstanceCount int
param instanceMemoryMB int

@description('Instances of the group `http` that are always there.')
param alwaysReadyHttpInstances int

@description('Settings for all jobs by key; what is null, blank or an empty list is not set.')
param settings object

@description('The jobs, in their order.')
param jobs Job[]

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

var suffix = environment().suffixes.storage

// The host signs in to storage with the identity. The three addresses instead of the account's name, because they hold in
// every cloud and with every name resolution; the handler reads the same settings.
var resourceSettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.properties.clientId};Authorization=AAD'
  AzureWebJobsStorage__blobServiceUri: 'https://${storageAccountName}.blob.${suffix}'
  AzureWebJobsStorage__queueServiceUri: 'https://${storageAccountName}.queue.${suffix}'
  AzureWebJobsStorage__tableServiceUri: 'https://${storageAccountName}.table.${suffix}'
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identity.properties.clientId
  KEY_VAULT_URL: 'https://${keyVaultName}${environment().suffixes.keyvaultDns}'
  MANAGED_IDENTITY_CLIENT_ID: identity.properties.clientId
}

// `my-job` takes a setting from MY_JOB__KEY.
var ofJobs = flatten(map(
  jobs,
  job =>
    map(items(job.settings), item => {
      key: '${toUpper(replace(job.name, '-', '_'))}__${item.key}'
      value: item.value
    })
))
var given = filter(
  concat(items(settings), ofJobs, [{ key: 'JOBS', value: join(map(jobs, job => job.name), '|') }]),
  item => !contains(['', '[]', 'null'], string(item.value ?? ''))
)

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true, zoneRedundant: zoneRedundant }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: appName
  location: location
  tags: { ...tags, 'azd-service-name': serviceName }
  kind: 'functionapp,linux'
  identity: { type: 'UserAssigned', userAssignedIdentities: { '${identity.id}': {} } }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: subnetId
    siteConfig: { minTlsVersion: '1.2' }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${storageAccountName}.blob.${suffix}/deployments'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      // Exactly `1.0`: the service takes any text here, and the app then does not start.
      runtime: { name: 'custom', version: '1.0' }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstanceCount
        instanceMemoryMB: instanceMemoryMB
        alwaysReady: alwaysReadyHttpInstances > 0 ? [{ name: 'http', instanceCount: alwaysReadyHttpInstances }] : []
      }
    }
  }

  resource appSettings 'config' = {
    name: 'appsettings'
    properties: union(
      // Where Microsoft Graph calls, unless something stands in front.
      { PUBLIC_URL: 'https://${app.properties.defaultHostName}' },
      toObject(given, item => item.key, item => string(item.value)),
      resourceSettings
    )
  }

  // Packages come with a token from Microsoft Entra, not with a publishing password; FTP is the same switch.
  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }
}

output name string = app.name
output hostName string = app.properties.defaultHostName
